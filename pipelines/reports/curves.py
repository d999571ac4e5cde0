"""The curves of a training, from the CSV logs of its run to points of an SVG."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 600, 260
Series = list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: What it shows.
        points: For an SVG polyline in a box of ``WIDTH`` x ``HEIGHT``, y pointing down.
        last: The last value.
    """

    name: str
    points: str
    last: float


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Curves over steps on one pair of axes, from 0 to ``top`` and from 0 to ``steps``."""

    curves: list[Curve]
    top: float
    steps: int


def read_log(run: Path) -> dict[str, Series]:
    """Return what a run logged, by name; a resumed run writes several files, later ones win."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for file in sorted((run / "logs").glob("*/metrics.csv")):
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        values[name][int(row["step"])] = float(value)
    return {name: sorted(series.items()) for name, series in values.items()}


def chart(log: Mapping[str, Series], names: Sequence[str]) -> Chart | None:
    """Lay out the named curves on common axes; None if none of them was logged."""
    found = {name: log[name] for name in names if name in log}
    if not found:
        return None
    top = max(value for series in found.values() for _, value in series) or 1.0
    steps = max(series[-1][0] for series in found.values()) + 1  # the first step is number 0
    return Chart(
        curves=[
            Curve(
                name=name.partition("/")[2] or name,
                points=" ".join(
                    f"{WIDTH * (step + 1) / steps:.1f},{HEIGHT * (1 - value / top):.1f}"
                    for step, value in series
                ),
                last=series[-1][1],
            )
            for name, series in found.items()
        ],
        top=top,
        steps=steps,
    )
