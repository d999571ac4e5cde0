"""One page that shows a whole way, from cache to masks; it opens offline, everything inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lens_cache.config.train import TrainConfig
from lens_cache.evaluation.baseline_scores import Baselines, Line
from lens_cache.evaluation.scores import Scores
from lens_cache.extraction.estimate import Estimate
from pipelines.evaluation.gallery import Gallery
from pipelines.evaluation.report import Evaluation
from pipelines.reports.html import template

LENS = "LENS"
_TEMPLATE = "shapes.html"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the page shows.

    Attributes:
        version: Of the package.
        seed: Of the world and the training.
        pictures: Number of pictures by split.
        queries: Number of instructions by split.
        layers: The cached layers.
        cost: Bytes and operations of the extraction, and of the naive one.
        seconds: What each step took, by name.
        training: Settings of the training.
        charts: ``<svg>`` elements by title.
        evaluations: By split.
        baselines: The reference lines on the same splits.
        gallery: Pictures of one split.
    """

    version: str
    seed: int
    pictures: Mapping[str, int]
    queries: Mapping[str, int]
    layers: tuple[int, ...]
    cost: Estimate
    seconds: Mapping[str, float]
    training: TrainConfig
    charts: Mapping[str, str]
    evaluations: Mapping[str, Evaluation]
    baselines: Baselines
    gallery: Gallery

    @property
    def lines(self) -> list[Line]:
        """LENS first, then every reference line."""
        lens = Line(
            name=LENS,
            note="the trained head with keypoints and descriptions, SAM's mask decoder",
            ceiling=False,
            splits={
                split: Scores(overall=found.overall, by_kind=found.by_kind, by_topic=found.by_topic)
                for split, found in self.evaluations.items()
            },
        )
        return [lens, *self.baselines.lines]


def render(page: Page) -> str:
    """Return the page as HTML; every text from the data is escaped."""
    return template(_TEMPLATE).render(page=page, lens=LENS)
