"""Matplotlib figures as SVG: equal figures give equal bytes, and pages can style them."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK = "#1c1e21"
RULE = "#e3e3de"
# The palette of style.html, in its order.
COLOURS = (
    "#1668c7",
    "#c2571a",
    "#2f8a57",
    "#8a4fb0",
    "#a88a00",
    "#0f8f9c",
    "#b8365f",
    "#6a6f76",
)
_STYLE: Any = {
    # Text stays text, in the font of the page; ids of clip paths do not change between runs.
    "svg.fonttype": "none",
    "svg.hashsalt": "lens-cache",
    "font.family": "sans-serif",
    "font.size": 10,
    # Names come from data: a dollar sign in one is not mathematics.
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "xtick.color": INK,
    "ytick.color": INK,
}
_VARIABLES = {
    INK: "var(--ink)",
    RULE: "var(--rule)",
    **{colour: f"var(--curve-{number})" for number, colour in enumerate(COLOURS)},
}


def styled() -> AbstractContextManager[None]:
    """Return the context in which figures are drawn and written."""
    return matplotlib.rc_context(_STYLE)


def svg(figure: Figure) -> str:
    """Return a figure as an SVG document on a white ground."""
    return _render(figure, transparent=False)


def inline_svg(figure: Figure) -> str:
    """Return a figure as an ``<svg>`` element for a page with the colours of style.html."""
    text = _render(figure, transparent=True)
    text = text[text.index("<svg") :]
    # Several figures share a page: drop the ids that nothing refers to.
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    return text


def _render(figure: Figure, *, transparent: bool) -> str:
    file = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=transparent, metadata=metadata)
    return file.getvalue()
