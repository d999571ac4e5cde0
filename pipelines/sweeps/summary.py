"""Statistics of a sweep: mean and deviation of each row over seeds, difference to the first row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lens_cache.config.sweep import Published, RowConfig, SweepConfig
from lens_cache.evaluation.seed_statistics import (
    Direction,
    Spread,
    Verdict,
    direction,
    paired_difference,
    spread,
    verdict,
)
from pipelines.sweeps.one_run import Measured, Result
from pipelines.sweeps.sweep import Outcome

Metric = Literal["giou", "ciou"]
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A row minus the first row, in points, on the split on which rows are compared.

    Attributes:
        measured: Over the seeds of both rows.
        direction: Its sign, if it is clear.
        published: The published difference, if there is one.
        verdict: Whether the measured sign is the published one; None without published figures.
    """

    measured: Spread
    direction: Direction
    published: float | None
    verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class RowSummary:
    """A row of the table; scores in percent.

    Attributes:
        name: Name of the row.
        changes: Its settings on top of the base.
        steps: Optimizer steps of each run.
        seconds: Time of a training.
        seeds: Seeds with a result.
        scores: Over seeds, by split and metric.
        by_seed: By split, metric and seed.
        differences: By metric; empty for the first row, and without a seed that both rows have.
        groups: gIoU on the split on which rows are compared, by grouping, then by group.
        paper: Published figures by split.
    """

    name: str
    changes: tuple[str, ...]
    steps: int
    seconds: Spread
    seeds: tuple[int, ...]
    scores: dict[str, dict[Metric, Spread]]
    by_seed: dict[str, dict[Metric, dict[int, float]]]
    differences: dict[Metric, Difference]
    groups: dict[str, dict[str, Spread]]
    paper: dict[str, Published]


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """A whole sweep.

    Attributes:
        name: Name of the sweep.
        source: Source of the published figures.
        splits: Rows are compared on the first one.
        queries: Number of queries of the first split.
        reference: Name of the row with which the others are compared.
        rows: Rows with a result.
    """

    name: str
    source: str
    splits: tuple[str, ...]
    queries: int
    reference: str
    rows: tuple[RowSummary, ...]


def summarise(config: SweepConfig, outcome: Outcome) -> SweepSummary | None:
    """Compare the rows with a result; return None if there is none."""
    results = outcome.results
    rows = tuple(
        _row(config, row, results[row.name], results.get(config.rows[0].name, {}))
        for row in config.rows
        if row.name in results
    )
    if not rows:
        return None
    some = next(iter(results[rows[0].name].values()))
    queries = some.overall[config.splits[0]].queries
    return SweepSummary(
        name=config.name,
        source=config.source,
        splits=config.splits,
        queries=queries,
        reference=config.rows[0].name,
        rows=rows,
    )


def _row(
    config: SweepConfig, row: RowConfig, results: dict[int, Result], first: dict[int, Result]
) -> RowSummary:
    runs = list(results.values())
    by_seed = {
        split: {metric: _by_seed(results, split, metric) for metric in METRICS}
        for split in config.splits
    }
    return RowSummary(
        name=row.name,
        changes=row.set,
        steps=runs[0].config.trainer.max_steps,
        seconds=spread([run.seconds for run in runs]),
        seeds=tuple(results),
        scores={
            split: {metric: spread(list(values.values())) for metric, values in found.items()}
            for split, found in by_seed.items()
        },
        by_seed=by_seed,
        differences={} if row is config.rows[0] else _differences(config, row, results, first),
        groups=_groups([run.groups[config.splits[0]] for run in runs]),
        paper=row.paper,
    )


def _by_seed(results: dict[int, Result], split: str, metric: Metric) -> dict[int, float]:
    return {seed: getattr(result.overall[split], metric) for seed, result in results.items()}


def _differences(
    config: SweepConfig, row: RowConfig, results: dict[int, Result], first: dict[int, Result]
) -> dict[Metric, Difference]:
    """Compare a row with the first one, on the first split."""
    split, found = config.splits[0], dict[Metric, Difference]()
    own, reference = row.paper.get(split), config.rows[0].paper.get(split)
    for metric in METRICS:
        measured = paired_difference(
            _by_seed(results, split, metric), _by_seed(first, split, metric)
        )
        if measured is None:
            continue
        published = None
        if own is not None and reference is not None:
            published = getattr(own, metric) - getattr(reference, metric)
        found[metric] = Difference(
            measured=measured,
            direction=direction(measured),
            published=published,
            verdict=None if published is None else verdict(measured, published),
        )
    return found


def _groups(runs: list[dict[str, dict[str, Measured]]]) -> dict[str, dict[str, Spread]]:
    """Return gIoU over seeds of each group; all runs have the same queries."""
    return {
        by: {name: spread([run[by][name].giou for run in runs]) for name in groups}
        for by, groups in runs[0].items()
    }
