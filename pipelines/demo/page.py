"""The page of the demo, from cache to masks: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
    """Content of the page.

    Attributes:
        version: Version of the package.
        seed: Seed of the world and of the training.
        images: Number of images by split.
        queries: Number of instructions by split.
        layers: Cached layers.
        cost: Bytes and operations of the extraction, and of a naive cache.
        seconds: Time of each step, by name.
        training: Settings of the training.
        charts: ``<svg>`` elements by title.
        evaluations: Results by split.
        baselines: Baselines on the same splits.
        gallery: Panels of one split.
        world: Folder of the drawn images.
        store: The store.
        run: The training run.
    """

    version: str
    seed: int
    images: Mapping[str, int]
    queries: Mapping[str, int]
    layers: tuple[int, ...]
    cost: Estimate
    seconds: Mapping[str, float]
    training: TrainConfig
    charts: Mapping[str, str]
    evaluations: Mapping[str, Evaluation]
    baselines: Baselines
    gallery: Gallery
    world: Path
    store: Path
    run: Path

    @property
    def lines(self) -> list[Line]:
        """LENS first, then the baselines."""
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
    """Return the page as HTML; texts from the data are escaped."""
    return template(_TEMPLATE).render(page=page, lens=LENS)
