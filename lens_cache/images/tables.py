"""Single values from large Parquet and Arrow files, such as those of the ``datasets`` library.

Messages of ``DatasetError`` may be stored as reasons in a plan's quarantine and so are part of its
digest (see ``decode``).
"""

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
# Parquet is read one column of a row group at a time, which must fit in memory.
MAX_GROUP_BYTES = 4 << 30
# Columns of row groups that a file keeps in memory.
_KEPT = 8


class TableFile:
    """A Parquet or Arrow file; reading is thread-safe.

    Attributes:
        path: The file.
        schema: Its columns.
        num_rows: Number of its rows.
    """

    def __init__(self, path: Path) -> None:
        """Open the file and read its schema.

        Args:
            path: A ``.parquet`` file, or an ``.arrow`` file or stream.

        Raises:
            DatasetError: If the file cannot be read.
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
        # Row number after the last row of each row group; an Arrow file counts as one group.
        if self._parquet is not None:
            self.schema = self._parquet.schema_arrow
            meta = self._parquet.metadata
            self._ends = list(
                accumulate(meta.row_group(n).num_rows for n in range(meta.num_row_groups))
            )
        else:
            self.schema = self._table.schema
            self._ends = [self._table.num_rows]
        self.num_rows = self._ends[-1] if self._ends else 0

    def value(self, row: int, column: str) -> Any:
        """Return one value as a ``pyarrow`` scalar.

        Raises:
            DatasetError: If the row or column does not exist or cannot be read.
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
        """Return a column of a row group; the most recent ones are kept in memory."""
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
        """Read a column of a row group of a Parquet file."""
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
    """Open a file, or return it if it is already open and unchanged on disk.

    Keeps the 32 most recently used files open.

    Raises:
        DatasetError: If the file cannot be read.
        OSError: If the file does not exist.
    """
    stat = path.stat()
    return _opened(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=32)
def _opened(path: Path, changed: int, size: int) -> TableFile:
    return TableFile(path)


def _map_arrow(path: Path) -> Any:
    """Memory-map an Arrow stream, as ``datasets`` writes it, or an Arrow file."""
    mapped = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(mapped).read_all()
