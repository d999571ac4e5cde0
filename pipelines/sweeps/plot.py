"""A sweep as a picture: per row a dot for each seed and a line at their mean."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from pipelines.sweeps.summary import METRICS, Metric, RowSummary, Summary

ROW, TOP, LEFT, PANEL, GAP, BOTTOM = 22, 40, 210, 300, 40, 30
COLOURS: dict[Metric, str] = {"giou": "#1f6fb2", "ciou": "#b2561f"}
TITLES: dict[Metric, str] = {"giou": "gIoU, %", "ciou": "cIoU, %"}


class _Scale:
    """From percent to pixels, over whole tens around all values."""

    def __init__(self, values: list[float]) -> None:
        self.low = 10 * math.floor(min(values) / 10)
        self.high = max(10 * math.ceil(max(values) / 10), self.low + 10)

    def __call__(self, value: float) -> float:
        return PANEL * (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> range:
        return range(self.low, self.high + 1, 10)


def plot(summary: Summary) -> str:
    """Return an SVG with gIoU and cIoU on the split that rows are compared on."""
    height = TOP + ROW * len(summary.rows) + BOTTOM
    width = LEFT + len(METRICS) * (PANEL + GAP)
    svg = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "font-family": "sans-serif",
            "font-size": "12",
        },
    )
    _add(svg, "rect", width=width, height=height, fill="white")
    for number, row in enumerate(summary.rows):
        _text(svg, row.name, x=LEFT - 12, y=_centre(number) + 4, anchor="end")
    for place, metric in enumerate(METRICS):
        _panel(svg, summary, metric, LEFT + place * (PANEL + GAP))
    ElementTree.indent(svg)
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def _panel(svg: ElementTree.Element, summary: Summary, metric: Metric, left: float) -> None:
    """Draw one metric: axis, the reference's mean as a dashed line, and the rows."""
    split = summary.splits[0]
    values = [v for row in summary.rows for v in row.by_seed[split][metric].values()]
    scale, bottom = _Scale(values), TOP + ROW * len(summary.rows)
    _text(svg, f"{TITLES[metric]} ({split})", x=left + PANEL / 2, y=TOP - 18, anchor="middle")
    for tick in scale.ticks:
        x = left + scale(tick)
        _add(svg, "line", x1=x, x2=x, y1=TOP, y2=bottom, stroke="#dddddd")
        _text(svg, str(tick), x=x, y=bottom + 16, anchor="middle")
    for number, row in enumerate(summary.rows):
        if row.name == summary.reference:
            x = left + scale(row.scores[split][metric].mean)
            _add(svg, "line", x1=x, x2=x, y1=TOP, y2=bottom, stroke="#888", stroke_dasharray="4 3")
        _row(svg, row, split, metric, scale, left, _centre(number))


def _row(
    svg: ElementTree.Element,
    row: RowSummary,
    split: str,
    metric: Metric,
    scale: _Scale,
    left: float,
    y: float,
) -> None:
    colour = COLOURS[metric]
    mean = left + scale(row.scores[split][metric].mean)
    _add(svg, "line", x1=mean, x2=mean, y1=y - 7, y2=y + 7, stroke=colour, stroke_width=2)
    for seed, value in row.by_seed[split][metric].items():
        dot = _add(
            svg, "circle", cx=left + scale(value), cy=y, r=3.5, fill=colour, fill_opacity=0.5
        )
        ElementTree.SubElement(dot, "title").text = f"{row.name}, seed {seed}: {value:.1f}"


def _centre(number: int) -> float:
    return TOP + ROW * (number + 0.5)


def _text(svg: ElementTree.Element, text: str, *, x: float, y: float, anchor: str) -> None:
    _add(svg, "text", x=x, y=y, text_anchor=anchor).text = text


def _add(parent: ElementTree.Element, tag: str, **attributes: float | str) -> ElementTree.Element:
    """Append an element; numbers are rounded, and ``_`` in a name stands for ``-``."""
    words = {
        name.replace("_", "-"): value if isinstance(value, str) else f"{value:g}"
        for name, value in attributes.items()
    }
    return ElementTree.SubElement(parent, tag, words)
