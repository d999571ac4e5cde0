"""A sweep as a figure: a dot for each run and a line at the mean of each row."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipelines.reports.figures import COLOURS, INK, styled, svg
from pipelines.sweeps.summary import METRICS, Metric, SweepSummary

_TITLES: dict[Metric, str] = {"giou": "gIoU, %", "ciou": "cIoU, %"}
# Inches.
_WIDTH, _MARGIN, _ROW = 9.0, 0.9, 0.26


def plot(summary: SweepSummary) -> str:
    """Return an SVG document with gIoU and cIoU on the split on which rows are compared."""
    with styled():
        return svg(draw(summary))


def draw(summary: SweepSummary) -> Figure:
    """Draw one panel per metric, with the rows from top to bottom."""
    height = _MARGIN + _ROW * len(summary.rows)
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    panels = figure.subplots(1, len(METRICS), sharey=True)
    for axes, metric, colour in zip(panels, METRICS, COLOURS, strict=False):
        _panel(axes, summary, metric, colour)
    panels[0].set_yticks(range(len(summary.rows)), [row.name for row in summary.rows])
    panels[0].invert_yaxis()
    return figure


def _panel(axes: Axes, summary: SweepSummary, metric: Metric, colour: str) -> None:
    """Draw the rows of one metric, and the mean of the reference as a dashed line."""
    split = summary.splits[0]
    axes.set_title(f"{_TITLES[metric]} ({split})", fontsize="medium")
    axes.grid(axis="y", visible=False)
    for number, row in enumerate(summary.rows):
        values = list(row.by_seed[split][metric].values())
        mean = row.scores[split][metric].mean
        axes.scatter(values, [number] * len(values), color=colour, alpha=0.5, linewidths=0)
        axes.plot([mean, mean], [number - 0.35, number + 0.35], color=colour, linewidth=2)
        if row.name == summary.reference:
            axes.axvline(mean, color=INK, alpha=0.5, linestyle="--", linewidth=1)
