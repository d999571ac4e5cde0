"""What a section of the report finds: one table and some sentences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lens_cache.store.io.files import replacing
from pipelines.reports.markdown import table

Value = str | int | float | None


@dataclass
class Findings:
    """The table and the sentences of a section, saved whenever they grow.

    Attributes:
        rows: The table; every row has the same columns. None is a value that the device does not
            report.
        notes: Sentences below the table.
    """

    rows: list[dict[str, Value]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, **values: Value) -> None:
        """Add a row."""
        self.rows.append(values)
        self.grown()

    def note(self, text: str) -> None:
        """Add a sentence."""
        self.notes.append(text)
        self.grown()

    def grown(self) -> None:
        """Called after every change."""


class SavedFindings(Findings):
    """Findings in a JSON file, so that what was found before a failure is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def grown(self) -> None:
        """Write the file."""
        with replacing(self._path) as part:
            part.write((json.dumps(asdict(self), indent=2) + "\n").encode())


def markdown(rows: Sequence[Mapping[str, Value]], notes: Sequence[str]) -> str:
    """Return a table and sentences in Markdown."""
    lines = []
    if rows:
        body = [[_text(value) for value in row.values()] for row in rows]
        lines += [*table(list(rows[0]), body), ""]
    return "\n".join([*lines, *[f"- {note}" for note in notes]])


def _text(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
