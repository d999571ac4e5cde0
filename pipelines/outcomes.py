"""What something got on each query, and the scores that follow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lens_cache.metrics import bootstrap
from lens_cache.plan_tables import PlannedQuery
from pipelines.evaluate import Score

# Reference lines are many, and their intervals need no third digit.
_RESAMPLES = 1000


@dataclass(frozen=True)
class Outcome:
    """What a line got on one query; intersection and union in pixels of the image."""

    query: PlannedQuery
    intersection: int
    union: int
    iou: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores over every query of a split, and by kind and topic as in an evaluation."""

    overall: Score
    by_kind: dict[str, Score]
    by_topic: dict[str, Score]


def score_all(outcomes: Sequence[Outcome]) -> Scores:
    """Score outcomes together, by kind and by topic; at least one outcome."""
    by_kind, by_topic = defaultdict(list), defaultdict(list)
    for outcome in outcomes:
        by_kind[f"{outcome.query.kind}, {outcome.query.length}"].append(outcome)
        by_topic[outcome.query.topic].append(outcome)
    by_topic.pop("", None)
    return Scores(
        overall=_score(outcomes),
        by_kind={name: _score(group) for name, group in sorted(by_kind.items())},
        by_topic={name: _score(group) for name, group in sorted(by_topic.items())},
    )


def _score(outcomes: Sequence[Outcome]) -> Score:
    found = bootstrap(
        [outcome.intersection for outcome in outcomes],
        [outcome.union for outcome in outcomes],
        [outcome.query.image_id for outcome in outcomes],
        ious=[outcome.iou for outcome in outcomes],
        resamples=_RESAMPLES,
    )
    return Score(queries=len(outcomes), giou=found["giou"], ciou=found["ciou"])
