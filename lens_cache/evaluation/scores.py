"""Results of a model or a baseline by query, and their scores."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lens_cache.evaluation.confidence import Measure
from lens_cache.evaluation.intervals import Interval, Ratio, bootstrap
from lens_cache.evaluation.metrics import CIOU_EPSILON, MaskScore
from lens_cache.plan.planned import PlannedImage, PlannedQuery

# Thresholds of P@X, the share of the queries with a target whose IoU reaches X.
PRECISIONS = (0.5, 0.7, 0.9)
# Largest share of the image that a small and a medium target covers.
SMALL, MEDIUM = 0.01, 0.1
# Most words of a short and a medium instruction.
FEW_WORDS, SOME_WORDS = 3, 7


@dataclass(frozen=True, kw_only=True)
class Sample(MaskScore):
    """One query with its result.

    Attributes:
        target_share: Share of the image that the target covers.
        measures: Those of ``confidence``; empty for a baseline.
        score: The confidence that came with the mask; None if there was none.
    """

    query_id: str
    image_id: str
    image: str
    dataset: str
    instruction: str
    kind: str
    length: str
    topic: str
    target_share: float
    measures: dict[Measure, float] = field(default_factory=dict)
    score: float | None = None

    @classmethod
    def of(
        cls,
        query: PlannedQuery,
        image: PlannedImage,
        result: MaskScore,
        *,
        measures: Mapping[Measure, float] | None = None,
        score: float | None = None,
    ) -> Sample:
        """Return a query of the plan with its result."""
        return cls(
            **vars(result),
            query_id=query.query_id,
            image_id=query.image_id,
            image=image.path.as_posix(),
            dataset=query.dataset,
            instruction=query.instruction,
            kind=query.kind,
            length=query.length,
            topic=query.topic,
            target_share=result.target_area / (image.width * image.height),
            measures=dict(measures or {}),
            score=score,
        )


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of several queries with 95 % bootstrap intervals over images.

    Attributes:
        queries: Number of queries.
        giou: Mean IoU.
        ciou: IoU of all pixels together.
        precision: By threshold, the share of the queries with a target whose IoU reaches it (P@X);
            empty if no query has a target, or the IoU of a query is an expected value.
        boundary_iou: Mean boundary IoU; None if the IoU of a query is an expected value.
        n_acc: Share of the queries without a target that got an empty mask; None if there is none.
        t_acc: Share of the queries with a target that got a mask that is not empty; None if every
            query has a target.
    """

    queries: int
    giou: Interval
    ciou: Interval
    precision: dict[str, Interval] = field(default_factory=dict)
    boundary_iou: Interval | None = None
    n_acc: Interval | None = None
    t_acc: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of the queries of a split.

    Attributes:
        overall: Over every query.
        by_kind: Over the queries of each kind and length, e.g. ``class, short``.
        by_topic: Over the queries of each topic; empty if the dataset has no topics.
        by_dataset: Over the queries of each dataset; empty if there is only one.
        by_size: Over the queries with a target of each size, as a share of the image.
        by_words: Over the queries of each number of words.
    """

    overall: Score
    by_kind: dict[str, Score]
    by_topic: dict[str, Score]
    by_dataset: dict[str, Score] = field(default_factory=dict)
    by_size: dict[str, Score] = field(default_factory=dict)
    by_words: dict[str, Score] = field(default_factory=dict)


def score_all(samples: Sequence[Sample], *, resamples: int = 10_000) -> Scores:
    """Score samples together and in groups; at least one sample.

    Args:
        samples: Their ``iou`` may be an expected value instead of the quotient of their counts.
        resamples: Number of resamples of the bootstrap.
    """

    def score_each(name_of: Callable[[Sample], str]) -> dict[str, Score]:
        groups = defaultdict(list)
        for sample in samples:
            groups[name_of(sample)].append(sample)
        groups.pop("", None)
        return {name: score(group, resamples) for name, group in sorted(groups.items())}

    datasets = score_each(lambda sample: sample.dataset)
    return Scores(
        overall=score(samples, resamples),
        by_kind=score_each(lambda sample: f"{sample.kind}, {sample.length}"),
        by_topic=score_each(lambda sample: sample.topic),
        by_dataset=datasets if len(datasets) > 1 else {},
        by_size=score_each(size_of),
        by_words=score_each(words_of),
    )


def score(samples: Sequence[Sample], resamples: int) -> Score:
    """Score samples together; at least one."""
    images = [sample.image_id for sample in samples]
    values = bootstrap(ratios_of(samples), images, resamples=resamples)
    return Score(
        queries=len(samples),
        giou=values["gIoU"],
        ciou=values["cIoU"],
        precision={str(x): values[f"P@{x}"] for x in PRECISIONS if f"P@{x}" in values},
        boundary_iou=values.get("boundary IoU"),
        n_acc=values.get("N-acc"),
        t_acc=values.get("T-acc"),
    )


def ratios_of(samples: Sequence[Sample]) -> dict[str, Ratio]:
    """Return the scores that samples have, by the names that tables use."""
    targets = [float(sample.target_area > 0) for sample in samples]
    absent = [1 - target for target in targets]
    empty = [float(sample.predicted_area == 0) for sample in samples]
    ratios = {
        "gIoU": Ratio([sample.iou for sample in samples]),
        "cIoU": Ratio(
            [sample.intersection for sample in samples],
            [sample.union for sample in samples],
            CIOU_EPSILON,
        ),
    }
    edges = [sample.boundary_iou for sample in samples if sample.boundary_iou is not None]
    exact = len(edges) == len(samples)
    if exact and any(targets):
        for threshold in PRECISIONS:
            reached = [
                target * (sample.iou >= threshold)
                for target, sample in zip(targets, samples, strict=True)
            ]
            ratios[f"P@{threshold}"] = Ratio(reached, targets)
    if exact:
        ratios["boundary IoU"] = Ratio(edges)
    if any(absent):
        ratios["N-acc"] = Ratio([a * e for a, e in zip(absent, empty, strict=True)], absent)
        if any(targets):
            found = [t * (1 - e) for t, e in zip(targets, empty, strict=True)]
            ratios["T-acc"] = Ratio(found, targets)
    return ratios


def size_of(sample: Sample) -> str:
    """Return the size of a sample's target for tables; empty if it has none."""
    if sample.target_area == 0:
        return ""
    if sample.target_share < SMALL:
        return f"1 small (under {SMALL:.0%})"
    return f"2 medium (under {MEDIUM:.0%})" if sample.target_share < MEDIUM else "3 large"


def words_of(sample: Sample) -> str:
    """Return the number of words of a sample's instruction for tables."""
    words = len(sample.instruction.split())
    if words <= FEW_WORDS:
        return f"1 - {FEW_WORDS} words"
    return (
        f"{FEW_WORDS + 1} - {SOME_WORDS} words"
        if words <= SOME_WORDS
        else f"over {SOME_WORDS} words"
    )
