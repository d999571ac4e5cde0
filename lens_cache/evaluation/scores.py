"""Results of a model or a baseline by query, and their scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lens_cache.evaluation.confidence import Measure
from lens_cache.evaluation.mask_pairs import MaskPair
from lens_cache.evaluation.metrics import Interval, bootstrap, intersection_and_union, iou
from lens_cache.plan.planned import PlannedImage, PlannedQuery
from lens_cache.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One query's result; intersection and union in pixels of the image.

    ``measures`` are those of ``confidence``, empty for a baseline.
    """

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
    measures: dict[Measure, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, query: PlannedQuery, image: PlannedImage, intersection: int, union: int, iou: float
    ) -> Sample:
        """Return the result of a query of the plan."""
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
        by_topic: Over the queries of each topic; empty if the dataset has no topics.
        by_dataset: Over the queries of each dataset; empty if there is only one.
    """

    overall: Score
    by_kind: dict[str, Score]
    by_topic: dict[str, Score]
    by_dataset: dict[str, Score] = field(default_factory=dict)


def score_all(samples: Sequence[Sample], *, resamples: int = 10_000) -> Scores:
    """Score samples together, by kind, by topic and by dataset; at least one sample.

    Args:
        samples: Their ``iou`` may be an expected value instead of the quotient of their counts.
        resamples: Number of resamples of the bootstrap.
    """
    kinds, topics, datasets = defaultdict(list), defaultdict(list), defaultdict(list)
    for sample in samples:
        kinds[f"{sample.kind}, {sample.length}"].append(sample)
        topics[sample.topic].append(sample)
        datasets[sample.dataset].append(sample)
    topics.pop("", None)
    if len(datasets) == 1:
        datasets.clear()

    def score(group: Sequence[Sample]) -> Score:
        found = bootstrap(
            [sample.intersection for sample in group],
            [sample.union for sample in group],
            [sample.image_id for sample in group],
            ious=[sample.iou for sample in group],
            resamples=resamples,
        )
        return Score(queries=len(group), giou=found["giou"], ciou=found["ciou"])

    def score_each(groups: Mapping[str, Sequence[Sample]]) -> dict[str, Score]:
        return {name: score(group) for name, group in sorted(groups.items())}

    return Scores(
        overall=score(samples),
        by_kind=score_each(kinds),
        by_topic=score_each(topics),
        by_dataset=score_each(datasets),
    )


def sample_of(store: Store, pair: MaskPair) -> Sample:
    """Return the result of one answered query."""
    query = store.plan.query(pair.query)
    intersection, union = intersection_and_union(pair.prediction, pair.truth, pair.ignore)
    image = store.plan.image(query.image_index)
    value = float(iou(intersection, union))
    sample = Sample.of(query, image, int(intersection), int(union), value)
    return replace(sample, measures={name: float(one) for name, one in pair.measures.items()})
