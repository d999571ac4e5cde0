"""The curves of a training, from the CSV logs of its run to charts for a page."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipelines.reports.figures import COLOURS, inline_svg, styled

Series = list[tuple[int, float]]


def read_log(run: Path) -> dict[str, Series]:
    """Return the logged values of a run: by name, pairs of step (from 0) and value.

    A resumed run has several files; where they overlap, the later file counts.
    """
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for file in sorted((run / "logs").glob("*/metrics.csv")):
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        values[name][int(row["step"])] = float(value)
    return {name: sorted(series.items()) for name, series in values.items()}


def chart(log: Mapping[str, Series], names: Sequence[str]) -> str | None:
    """Return the named curves on common axes as an ``<svg>`` element; None without a curve."""
    with styled():
        figure = draw(log, names)
        return None if figure is None else inline_svg(figure)


def draw(log: Mapping[str, Series], names: Sequence[str]) -> Figure | None:
    """Draw the named curves over steps, each with its last value in the legend."""
    found = {name: log[name] for name in names if name in log}
    if not found:
        return None
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot(xlabel="steps")
    for number, (name, series) in enumerate(found.items()):
        steps = [step + 1 for step, _ in series]
        values = [value for _, value in series]
        label = f"{values[-1]:.3g} {name.partition('/')[2] or name}"
        axes.plot(
            steps,
            values,
            color=COLOURS[number % len(COLOURS)],
            label=label,
            # A single point has no line.
            marker="o" if len(series) == 1 else "",
        )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins="auto"))
    figure.legend(
        loc="outside lower left", ncols=3, frameon=False, title="last value", alignment="left"
    )
    return figure
