"""Read the tab-separated files of benchmarks, in the layout of VLMEvalKit.

Each row is a question; ``image`` is an image file in base64, a list of several, or the index of
another row with the same picture.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lens_cache.datasets.base import brief
from lens_cache.errors import DatasetError

# A cell with an image has megabytes.
_LARGEST_CELL = 1 << 28
# A shorter cell is the index of another row, as in VLMEvalKit.
_SHORTEST_IMAGE = 64
_NOT_A_NUMBER = "nan"


@dataclass(frozen=True)
class Row:
    """One row of a file.

    Attributes:
        place: File and line, for messages.
        cells: The text of each column but ``image``; empty cells are missing.
        image: The cell with the image.
    """

    place: str
    cells: dict[str, str]
    image: str

    def get(self, column: str) -> str:
        """Return a cell; empty if the row has none."""
        return self.cells.get(column, "")

    @cached_property
    def index(self) -> int:
        """The number of the row.

        Raises:
            DatasetError: If it is not a number.
        """
        text = self.get("index")
        try:
            return int(float(text))
        except (ValueError, OverflowError):
            raise DatasetError(
                f"reading {self.place}: expected a number in the column index, found {brief(text)}"
            ) from None

    def images(self) -> list[bytes]:
        """Return the image files of the row.

        Raises:
            DatasetError: If a cell is not base64.
        """
        cells = [self.image]
        if self.image.startswith("["):
            try:
                cells = [str(cell) for cell in ast.literal_eval(self.image)]
                if not cells:
                    raise ValueError
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                raise DatasetError(
                    f"reading {self.place}, column image: expected a list of images in base64, "
                    f"found {brief(self.image)}"
                ) from None
        try:
            return [base64.b64decode(cell, validate=True) for cell in cells]
        except (binascii.Error, ValueError) as error:
            raise DatasetError(
                f"reading {self.place}, column image: expected base64, found "
                f"{brief(self.image, 30)} ({error}); download the file again"
            ) from None


def read_rows(path: Path, columns: Iterable[str]) -> list[Row]:
    """Read a file with at least these columns, besides ``index`` and ``image``.

    Raises:
        DatasetError: If the file cannot be read, lacks a column or has no row, an index occurs
            twice, or a row refers to the picture of a row that is not there.
    """
    csv.field_size_limit(_LARGEST_CELL)
    wanted = ["index", "image", *columns]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", restkey="")
            missing = [name for name in wanted if name not in (reader.fieldnames or [])]
            if missing:
                raise DatasetError(
                    f"reading {path}: expected the columns {', '.join(wanted)}, found no "
                    f"{' and no '.join(missing)}"
                )
            rows = [_row(f"{path}, line {reader.line_num}", cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"reading the benchmark {path}: {error}") from None
    if not rows:
        raise DatasetError(f"reading {path}: expected a row for each question, found none")
    by_index: dict[int, Row] = {}
    for row in rows:
        if by_index.setdefault(row.index, row) is not row:
            raise DatasetError(f"reading {row.place}: a second row with the index {row.index}")
    return [_with_picture(row, by_index) for row in rows]


def _row(place: str, cells: dict[str, str]) -> Row:
    if "" in cells:
        raise DatasetError(f"reading {place}: more cells than columns")
    known = {name: text for name, text in cells.items() if text and text.lower() != _NOT_A_NUMBER}
    return Row(place, known, known.pop("image", ""))


def _with_picture(row: Row, by_index: dict[int, Row]) -> Row:
    """Return a row with its own picture instead of the index of another row."""
    if row.image.startswith("[") or len(row.image) > _SHORTEST_IMAGE:
        return row
    try:
        return Row(row.place, row.cells, by_index[int(row.image)].image)
    except (ValueError, KeyError):
        raise DatasetError(
            f"reading {row.place}, column image: expected an image in base64 or the index of "
            f"another row, found {brief(row.image)}"
        ) from None


def write_rows(columns: list[str], rows: Iterable[dict[str, str]]) -> bytes:
    """Return rows as such a file."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()
