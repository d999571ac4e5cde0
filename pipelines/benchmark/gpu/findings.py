"""What a section of the report found: one table and some sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Value = str | int | float | None


@dataclass
class Findings:
    """The result of a section.

    Attributes:
        rows: The table; every row has the same columns. None is a value that the device does not
            report.
        notes: Sentences below the table.
    """

    rows: list[dict[str, Value]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def markdown(rows: Sequence[Mapping[str, Value]], notes: Sequence[str]) -> str:
    """Return a table and sentences in Markdown."""
    lines = []
    if rows:
        lines += ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
        lines += ["| " + " | ".join(_cell(value) for value in row.values()) + " |" for row in rows]
        lines.append("")
    return "\n".join([*lines, *[f"- {note}" for note in notes]])


def _cell(value: Value) -> str:
    if value is None:
        return "-"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
