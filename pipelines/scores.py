"""What a model or a reference line got on each query, and the scores that follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lens_cache.metrics import Interval, bootstrap
from lens_cache.plan import PlannedImage
from lens_cache.planned import PlannedQuery


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One query's result; intersection and union in pixels of the image."""

    query_id: str
    image_id: str
    image: str
    dataset: str
    instruction: str
    kind: str
    length: str
    topic: str
    intersection: int
    union: int
    iou: float

    @classmethod
    def of(
        cls, query: PlannedQuery, image: PlannedImage, intersection: int, union: int, iou: float
    ) -> Sample:
        """Say what was got on a query of the plan."""
        return cls(
            query_id=query.query_id,
            image_id=query.image_id,
            image=image.path.as_posix(),
            dataset=query.dataset,
            instruction=query.instruction,
            kind=query.kind,
            length=query.length,
            topic=query.topic,
            intersection=intersection,
            union=union,
            iou=iou,
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """gIoU and cIoU with 95 % bootstrap intervals over images, and the number of queries."""

    queries: int
    giou: Interval
    ciou: Interval


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of the queries of a split.

    Attributes:
        overall: Over every query.
        by_kind: Over the queries of each kind and length, e.g. ``class, short``.
        by_topic: Over the queries of each topic; empty where the dataset names none.
    """

    overall: Score
    by_kind: dict[str, Score]
    by_topic: dict[str, Score]


def score_all(samples: Sequence[Sample], *, resamples: int = 10_000) -> Scores:
    """Score samples together, by kind and by topic; at least one sample.

    Args:
        samples: Their ``iou`` need not be the quotient of the counts: it may be an expected value.
        resamples: Of the bootstrap.
    """
    by_kind, by_topic = defaultdict(list), defaultdict(list)
    for sample in samples:
        by_kind[f"{sample.kind}, {sample.length}"].append(sample)
        by_topic[sample.topic].append(sample)
    by_topic.pop("", None)

    def score(group: Sequence[Sample]) -> Score:
        found = bootstrap(
            [sample.intersection for sample in group],
            [sample.union for sample in group],
            [sample.image_id for sample in group],
            ious=[sample.iou for sample in group],
            resamples=resamples,
        )
        return Score(queries=len(group), giou=found["giou"], ciou=found["ciou"])

    return Scores(
        overall=score(samples),
        by_kind={name: score(group) for name, group in sorted(by_kind.items())},
        by_topic={name: score(group) for name, group in sorted(by_topic.items())},
    )
