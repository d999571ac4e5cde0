"""The report of a sweep: Markdown, JSON and an SVG figure in its folder."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lens_cache.config.sweep import Published, SweepConfig
from lens_cache.errors import TrainingError
from lens_cache.evaluation.baseline_scores import Baselines
from lens_cache.evaluation.seed_statistics import Spread
from pipelines.reports.markdown import table
from pipelines.reports.report import Report
from pipelines.sweeps.plot import plot
from pipelines.sweeps.summary import (
    METRICS,
    Difference,
    Metric,
    RowSummary,
    SweepSummary,
    summarise,
)
from pipelines.sweeps.sweep import Failure, Outcome

LABELS: dict[Metric, str] = {"giou": "gIoU", "ciou": "cIoU"}


def write_report(
    config: SweepConfig, outcome: Outcome, out: Path, without_lens: Baselines | None = None
) -> Report:
    """Write ``NAME.md``, ``.json``, ``.csv`` and ``.svg``; return the main table as a report.

    Args:
        config: The sweep.
        outcome: Its results.
        out: Its folder.
        without_lens: The baselines on the split on which rows are compared.

    Raises:
        TrainingError: If no run has a result.
    """
    summary = summarise(config, outcome)
    if summary is None:
        raise TrainingError(
            f"sweeping into {out}: all {len(outcome.failures)} runs failed; see their logs in "
            f"{out / 'runs'}"
        )
    document = {
        **asdict(summary),
        "failures": [asdict(failure) for failure in outcome.failures],
        "baselines": None if without_lens is None else asdict(without_lens),
    }
    text = markdown(summary, outcome.failures, without_lens)
    (out / f"{config.name}.md").write_text(text, encoding="utf-8")
    (out / f"{config.name}.json").write_text(json.dumps(document, indent=2) + "\n")
    (out / f"{config.name}.csv").write_text(_csv(summary), encoding="utf-8")
    (out / f"{config.name}.svg").write_text(plot(summary), encoding="utf-8")
    lines = [*_table(summary, summary.splits[0]), "", *map(str, outcome.failures)]
    return Report(document, "\n".join([*lines, f"report {out / f'{config.name}.md'}"]))


def markdown(
    summary: SweepSummary, failures: Sequence[Failure], without_lens: Baselines | None = None
) -> str:
    """Return the whole report as Markdown."""
    split = summary.splits[0]
    lines = [*_head(summary), *_differences(summary)]
    for other in summary.splits[1:]:
        lines += [f"## On {other}", "", *_table(summary, other), ""]
    for by in summary.rows[0].groups:
        lines += [f"## gIoU on {split} by {by}", "", *_group_table(summary, by), ""]
    if without_lens is not None:
        lines += _without_lens(summary, without_lens)
    if failures:
        lines += ["## Runs that failed", "", "```", *map(str, failures), "```", ""]
    return "\n".join(lines)


def _csv(summary: SweepSummary) -> str:
    """Return a line for each row, split and metric, in percent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "split", "metric", "seeds", "mean", "standard_deviation"])
    for row in summary.rows:
        for split, scores in row.scores.items():
            for metric in METRICS:
                score = scores[metric]
                writer.writerow(
                    [row.name, split, metric, len(row.seeds), score.mean, score.deviation]
                )
    return text.getvalue()


def _head(summary: SweepSummary) -> list[str]:
    """Return the table of the split on which rows are compared, and the settings of each row."""
    split = summary.splits[0]
    return [
        f"# {summary.name}",
        "",
        f"Measured on {split}: {summary.queries} queries. Mean ± standard deviation over n seeds, "
        f"in percent; Δ is the difference to {summary.reference} in points, paired by seed."
        + _citation(summary),
        "",
        *_table(summary, split),
        "",
        f"![](./{summary.name}.svg)",
        "",
        "Settings of each row on top of the base:",
        "",
        *(f"- {row.name}: {_changes(row)}" for row in summary.rows),
        "",
    ]


def _citation(summary: SweepSummary) -> str:
    if not summary.source:
        return ""
    return (
        f" The column *published* cites {summary.source}: other models and other data, so only the "
        "signs of differences can be compared."
    )


def _differences(summary: SweepSummary) -> list[str]:
    none = f"None: no seed has a result of both {summary.reference} and another row."
    return [
        "## Differences",
        "",
        "A difference is clear if its mean is at least two standard errors away from zero. With "
        "few seeds this is a weak test: with three, a change without any effect is called clear "
        "about one time in five.",
        "",
        *([line for row in summary.rows for line in _statements(row)] or [none]),
        "",
    ]


def _statements(row: RowSummary) -> list[str]:
    """Return a sentence per difference of a row: its sign, and whether the published one agrees."""
    return [
        f"- {row.name}, {LABELS[metric]}: {_verdict(difference)}"
        for metric, difference in row.differences.items()
    ]


def _verdict(difference: Difference) -> str:
    measured = signed(difference.measured)
    if difference.verdict is None or difference.published is None:
        return f"{measured}: {difference.direction}."
    published = f"published {difference.published:+z.1f}"
    if difference.verdict == "no clear difference":
        return f"{measured}: no clear difference ({published})."
    return f"{measured}: {difference.verdict} in sign ({published})."


def _table(summary: SweepSummary, split: str) -> list[str]:
    """Return the rows on a split, with differences on the split on which rows are compared."""
    compared = split == summary.splits[0]
    header = ["row", "n", *(LABELS[metric] for metric in METRICS)]
    header += [f"Δ {LABELS[metric]}" for metric in METRICS] if compared else []
    cited = any(row.paper.get(split) for row in summary.rows)
    header += ["steps", "training, s", *(["published gIoU / cIoU"] if cited else [])]
    body = [
        [
            row.name,
            str(len(row.seeds)),
            *(plain(row.scores[split][metric]) for metric in METRICS),
            *(_cell(row, metric) for metric in METRICS if compared),
            str(row.steps),
            f"{row.seconds.mean:.0f}",
            *([_published(row.paper.get(split))] if cited else []),
        ]
        for row in summary.rows
    ]
    return table(header, body)


def _group_table(summary: SweepSummary, by: str) -> list[str]:
    names = list(summary.rows[0].groups[by])
    body = [[row.name, *(plain(row.groups[by][name]) for name in names)] for row in summary.rows]
    return table(["row", *names], body)


def _without_lens(summary: SweepSummary, found: Baselines) -> list[str]:
    """Return the gIoU of the first row and of the baselines, by kind."""
    split, first = summary.splits[0], summary.rows[0]
    names = list(first.groups["kind"])
    body = [[first.name, plain(first.scores[split]["giou"])]]
    body[0] += [plain(first.groups["kind"][name]) for name in names]
    for line in found.lines:
        scores = line.splits[split]
        every = [scores.overall, *(scores.by_kind[name] for name in names)]
        body.append([line.name, *(f"{100 * score.giou.value:.1f}" for score in every)])
    return [
        "## Without LENS",
        "",
        f"gIoU of the same frozen models on {split}; layer, rows and cut are chosen on "
        f"{found.development}.",
        "",
        *table(["baseline", "all", *names], body),
        "",
        *(f"- {line.name}: {line.note}" for line in found.lines),
        *(f"- {note}" for note in found.notes),
        "",
    ]


def _cell(row: RowSummary, metric: Metric) -> str:
    difference = row.differences.get(metric)
    return "" if difference is None else signed(difference.measured)


def _changes(row: RowSummary) -> str:
    return ", ".join(f"`{change}`" for change in row.changes) or "none"


def _published(figures: Published | None) -> str:
    return "" if figures is None else f"{figures.giou:.1f} / {figures.ciou:.1f}"


def plain(value: Spread) -> str:
    """Return mean and standard deviation."""
    return f"{value.mean:.1f}" + _deviation(value)


def signed(value: Spread) -> str:
    """Return mean and standard deviation of a difference."""
    return f"{value.mean:+z.1f}" + _deviation(value)


def _deviation(value: Spread) -> str:
    return "" if value.deviation is None else f" ± {value.deviation:.1f}"
