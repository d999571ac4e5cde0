"""A dataset of the Hugging Face Hub on the local disk: rows with image, text and mask.

It reads Parquet files, or a folder written by ``save_to_disk``; see ``huggingface_files``. A row
has one image, one or several texts, and their mask; see ``huggingface_masks``. Only the tables are
read; code of a dataset is never run. ``images.tables`` explains why the ``datasets`` library is not
used.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, get_args

import pyarrow as pa

from lens_cache.config.data import ColumnsConfig, DataConfig
from lens_cache.datasets.base import (
    ImageRecord,
    Kind,
    Length,
    QueryRecord,
    Rejected,
    SegmentationDataset,
    brief,
    dataset_root,
    is_text,
    relative_path,
)
from lens_cache.datasets.huggingface_files import find_tables
from lens_cache.datasets.huggingface_masks import mask_from_value
from lens_cache.datasets.mask_parsing import check_not_empty
from lens_cache.datasets.questions import is_long
from lens_cache.errors import ConfigError, DatasetError, LensCacheError, one_line
from lens_cache.images import masks
from lens_cache.images.decode import image_size
from lens_cache.images.files import read_image_file, row_path, stored_bytes
from lens_cache.images.tables import table_file

# Usual column names of datasets on the Hub, the most likely first.
_USUAL = {
    "image": ("image", "img", "picture"),
    "text": ("text", "instruction", "sentences", "sentence", "expression", "caption", "question"),
    "mask": ("mask", "masks", "segmentation", "gt_mask"),
    "ignore": ("ignore", "ignore_mask"),
    "split": ("split",),
    "kind": ("kind",),
    "length": ("length", "is_sentence"),
    "topic": ("topic",),
}
_NEEDED = ("image", "text", "mask")


@dataclass(frozen=True)
class _Table:
    """A table file.

    Attributes:
        path: The file, relative to the root.
        columns: Column name by role (a key of ``_USUAL``).
        rows: Selected rows.
        splits: Split of each selected row.
    """

    path: PurePosixPath
    columns: dict[str, str]
    rows: list[int]
    splits: list[str]


class HuggingfaceDataset(SegmentationDataset):
    """The rows of all tables of a folder, sorted by file name; see the module docstring.

    Raises:
        ConfigError: If a required column is missing, or no row has the split.
        DatasetError: If a table cannot be read.
    """

    name = "huggingface"
    source = PurePosixPath(".")

    def __init__(self, config: DataConfig) -> None:
        self._root = dataset_root(config)
        tables = [
            _open_table(self._root, path, split, config.columns)
            for path, split in find_tables(self._root)
        ]
        self._tables = [_only(table, config.split) for table in tables]
        self._ends = list(accumulate(len(table.rows) for table in self._tables))
        if not self._ends[-1]:
            found = ", ".join(sorted({split for table in tables for split in table.splits}))
            raise ConfigError(
                f"opening the huggingface dataset {self._root}: no row of split "
                f"{config.split!r}; splits found: {found or 'none, the tables are empty'}"
            )
        self._length = min(self._ends[-1], config.limit or self._ends[-1])

    @property
    def listing(self) -> tuple[PurePosixPath, ...]:
        """The tables."""
        return tuple(table.path for table in self._tables)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> ImageRecord:
        place = bisect.bisect_right(self._ends, index)
        table = self._tables[place]
        at = index - (self._ends[place - 1] if place else 0)
        path = row_path(table.path, table.rows[at], table.columns["image"])
        queries: tuple[QueryRecord, ...] = ()
        rejected: tuple[Rejected, ...] = ()
        try:
            path = self._image_path(table, table.rows[at], path)
            queries = self._queries(table, table.rows[at], table.splits[at], path)
        except (ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            rejected = (Rejected(f"row {table.rows[at]}", reason or one_line(error)),)
        return ImageRecord(path, self.name, queries, rejected)

    def _image_path(self, table: _Table, row: int, path: PurePosixPath) -> PurePosixPath:
        """Return the path of the image: the row itself, or the file named by the row."""
        value = self._value(table, row, "image").as_py()
        if stored_bytes(value) is not None:
            return path
        return relative_path(value.get("path") if isinstance(value, dict) else value)

    def _queries(
        self, table: _Table, row: int, split: str, path: PurePosixPath
    ) -> tuple[QueryRecord, ...]:
        """Return one query per text of a row; raises ValueError with the reason."""
        value = self._value(table, row, "text").as_py()
        texts = value if isinstance(value, list) else [value]
        if not texts or not all(map(is_text, texts)):
            raise ValueError(f"expected a text or a list of texts, got {brief(value)}")
        words = [text.strip() for text in texts]
        width, height = image_size(read_image_file(self._root, path))
        target = self._mask(table, row, "mask", height, width)
        check_not_empty(target)
        ignore = None
        if "ignore" in table.columns and self._value(table, row, "ignore").is_valid:
            ignore = self._mask(table, row, "ignore", height, width)
        kind = self._choice(table, row, "kind", "referring", get_args(Kind))
        return tuple(
            QueryRecord(
                instruction=text,
                kind=kind,
                length=self._text_length(table, row, text),
                split=split,
                target=target,
                ignore=ignore if ignore is not None and masks.area(ignore) else None,
                topic=str(self._choice(table, row, "topic", "")).strip(),
                repeat=words[:position].count(text),
            )
            for position, text in enumerate(words)
        )

    def _mask(self, table: _Table, row: int, name: str, height: int, width: int) -> masks.Rle:
        try:
            return mask_from_value(self._value(table, row, name), self._root, height, width)
        except ValueError as error:
            raise ValueError(f"column {table.columns[name]!r}: {error}") from None

    def _text_length(self, table: _Table, row: int, text: str) -> Length:
        default: Length = "long" if is_long(text) else "short"
        found = self._choice(table, row, "length", default, (True, False, *get_args(Length)))
        if isinstance(found, bool):
            return "long" if found else "short"
        return found  # type: ignore[no-any-return]

    def _choice(
        self, table: _Table, row: int, name: str, default: str, allowed: tuple[Any, ...] = ()
    ) -> Any:
        """Return the value of an optional column, or the default; check it against ``allowed``."""
        value = self._value(table, row, name).as_py() if name in table.columns else None
        if value is None:
            return default
        if allowed and value not in allowed:
            raise ValueError(
                f"column {table.columns[name]!r} must be one of "
                f"{', '.join(map(str, allowed))}, got {brief(value)}"
            )
        return value

    def _value(self, table: _Table, row: int, name: str) -> pa.Scalar:
        """Return the value of a row in the column of a role."""
        try:
            return table_file(self._root / table.path).value(row, table.columns[name])
        except LensCacheError as error:
            raise ValueError(str(error)) from None


def _open_table(root: Path, path: PurePosixPath, split: str, columns: ColumnsConfig) -> _Table:
    """Read the columns and splits of a table."""
    try:
        file = table_file(root / path)
    except OSError as error:
        raise DatasetError(f"reading {root / path}: {error.strerror}") from None
    names = _find_columns(root / path, list(file.schema.names), columns)
    rows = list(range(file.num_rows))
    splits = [split] * len(rows)
    if "split" in names:
        splits = [str(value) for value in file.column(names["split"])]
    return _Table(path, names, rows, splits)


def _find_columns(path: Path, found: list[str], columns: ColumnsConfig) -> dict[str, str]:
    """Return the columns by role: as configured, otherwise by their usual names."""
    names = {}
    for field in fields(columns):
        configured = getattr(columns, field.name)
        usual = (configured,) if configured is not None else _USUAL[field.name]
        name = next((name for name in usual if name in found), None)
        if name is not None:
            names[field.name] = name
        elif configured is not None or field.name in _NEEDED:
            raise ConfigError(
                f"reading {path}: expected a column {' or '.join(usual)}, found "
                f"{', '.join(found)}; name it with --set data.columns.{field.name}=NAME"
            )
    return names


def _only(table: _Table, split: str | None) -> _Table:
    """Return the table with only the rows of a split; all rows if the split is None."""
    if split is None:
        return table
    kept = [n for n, found in enumerate(table.splits) if found == split]
    return _Table(table.path, table.columns, [table.rows[n] for n in kept], [split] * len(kept))
