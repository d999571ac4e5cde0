"""Single values out of large Parquet and Arrow files, such as those of the ``datasets`` library."""

from __future__ import annotations

import bisect
from collections import OrderedDict
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lens_cache.errors import DatasetError, one_line

SUFFIXES = (".parquet", ".arrow")
# A Parquet file is read a column of a row group at a time, which has to fit in memory.
MAX_GROUP_BYTES = 4 << 30
_KEPT = 8


class TableFile:
    """A file of rows; reading is safe from several threads.

    Attributes:
        path: The file.
        schema: Its columns.
        num_rows: How many rows it has.
    """

    def __init__(self, path: Path) -> None:
        """Read the file's outline.

        Raises:
            DatasetError: If it is not a Parquet file, or an Arrow file or stream.
        """
        self.path = path
        self._lock = Lock()
        self._columns: OrderedDict[tuple[int, str], Any] = OrderedDict()
        self._parquet: Any = None
        self._table: Any = None
        try:
            if path.suffix == ".parquet":
                self._parquet = pq.ParquetFile(path)
            else:
                self._table = _map_arrow(path)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(
                f"reading {path}: not a readable {path.suffix[1:]} file: {one_line(error, 120)}; "
                "get it anew"
            ) from None
        if self._parquet is not None:
            self.schema, meta = self._parquet.schema_arrow, self._parquet.metadata
            self._ends = list(
                accumulate(meta.row_group(n).num_rows for n in range(meta.num_row_groups))
            )
        else:
            self.schema, self._ends = self._table.schema, [self._table.num_rows]
        self.num_rows = self._ends[-1] if self._ends else 0

    def value(self, row: int, column: str) -> Any:
        """Return one value as a ``pyarrow`` scalar.

        Raises:
            DatasetError: If there is no such row or column, or it cannot be read.
        """
        if not 0 <= row < self.num_rows or column not in self.schema.names:
            raise DatasetError(f"reading {self.path}: it has no column {column!r} or no row {row}")
        group = bisect.bisect_right(self._ends, row)
        start = self._ends[group - 1] if group else 0
        return self._column(group, column)[row - start]

    def column(self, column: str) -> list[Any]:
        """Return a whole column as Python values."""
        return [
            value
            for group in range(len(self._ends))
            for value in self._column(group, column).to_pylist()
        ]

    def _column(self, group: int, column: str) -> Any:
        """Return a column of a row group; the last few stay at hand."""
        if self._table is not None:
            return self._table[column]
        with self._lock:
            if (group, column) not in self._columns:
                self._columns[group, column] = self._read(group, column)
                if len(self._columns) > _KEPT:
                    self._columns.popitem(last=False)
            self._columns.move_to_end((group, column))
            return self._columns[group, column]

    def _read(self, group: int, column: str) -> Any:
        size = self._parquet.metadata.row_group(group).total_byte_size
        if size > MAX_GROUP_BYTES:
            raise DatasetError(
                f"reading {self.path}: row group {group} has {size / 2**30:.1f} GiB, at most "
                f"{MAX_GROUP_BYTES >> 30} fit; write the file with fewer rows a group (pyarrow: "
                "row_group_size=100)"
            )
        try:
            return self._parquet.read_row_group(group, columns=[column], use_threads=False)[column]
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(
                f"reading {self.path}: column {column!r} of row group {group} cannot be read: "
                f"{one_line(error, 120)}; get the file anew"
            ) from None


def table_file(path: Path) -> TableFile:
    """Return an open file; the last few stay open, until they change on disk.

    Raises:
        DatasetError: If it cannot be read.
        OSError: If it is not there.
    """
    found = path.stat()
    return _opened(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=32)
def _opened(path: Path, changed: int, size: int) -> TableFile:
    return TableFile(path)


def _map_arrow(path: Path) -> Any:
    """Map an Arrow stream, as ``datasets`` writes it, or an Arrow file; nothing is copied."""
    mapped = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(mapped).read_all()
