"""Tables in Markdown."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; the first column is text, the others are numbers.

    Names of a dataset may contain anything, so cells show ``|``, ``<`` and line ends as they are.
    """
    rule = ["---", *(["---:"] * (len(header) - 1))]
    rows = [[_cell(text) for text in row] for row in (header, *body)]
    return ["| " + " | ".join(cells) + " |" for cells in (rows[0], rule, *rows[1:])]


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", r"\|")
