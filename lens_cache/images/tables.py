"""Random access to single values of large Parquet and Arrow files.

Why not the ``datasets`` library (measured with 5.2 on a Parquet file of 200 MB): it has random
access only after it has copied the file as Arrow into a cache of the same size, 200 MB more
(``load_dataset`` and ``Dataset.from_parquet``); with ``streaming=True`` nothing is copied, but the
rows have no length and no random access, which extraction needs to read the image of any row.
``load_from_disk`` copies nothing, but reads only one of the supported layouts. The library also
renames splits ("val" becomes "validation"), does not give the file and the row number that identify
an image in the plan, and takes 2.5 s to import. Here the first value is read after 10 ms, and
nothing is written.

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
# A Parquet file is read by column and row group; one of them has to fit in memory.
MAX_GROUP_BYTES = 4 << 30
_KEPT = 8


class TableFile:
    """An open table file; reading is safe from several threads.

    Attributes:
        path: The file.
        schema: Its columns.
        num_rows: Number of rows.
    """

    def __init__(self, path: Path) -> None:
        """Read the schema and the number of rows.

        Raises:
            DatasetError: If it is not a Parquet file, or an Arrow file or stream.
        """
        self.path = path
        self._lock = Lock()
        self._columns: OrderedDict[tuple[int, str], pa.ChunkedArray] = OrderedDict()
        self._parquet: pq.ParquetFile | None = None
        self._table: pa.Table | None = None
        try:
            if path.suffix == ".parquet":
                file = pq.ParquetFile(path)
                groups = file.metadata
                lengths = [groups.row_group(n).num_rows for n in range(groups.num_row_groups)]
                self._parquet = file
                self.schema = file.schema_arrow
            else:
                table = _map_arrow(path)
                lengths = [table.num_rows]
                self._table = table
                self.schema = table.schema
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(
                f"reading {path}: not a readable {path.suffix[1:]} file: {one_line(error, 120)}; "
                "download it again"
            ) from None
        self._ends = list(accumulate(lengths))
        self.num_rows = self._ends[-1] if self._ends else 0

    def value(self, row: int, column: str) -> pa.Scalar:
        """Return one value.

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

    def _column(self, group: int, column: str) -> pa.ChunkedArray:
        """Return a column of a row group; the last few are cached."""
        if self._table is not None:
            return self._table[column]
        with self._lock:
            if (group, column) not in self._columns:
                self._columns[group, column] = self._read(group, column)
                if len(self._columns) > _KEPT:
                    self._columns.popitem(last=False)
            self._columns.move_to_end((group, column))
            return self._columns[group, column]

    def _read(self, group: int, column: str) -> pa.ChunkedArray:
        assert self._parquet is not None
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
                f"{one_line(error, 120)}; get the file again"
            ) from None


def table_file(path: Path) -> TableFile:
    """Return an open file; the last few are cached until they change on disk.

    Raises:
        DatasetError: If it cannot be read.
        OSError: If it does not exist.
    """
    found = path.stat()
    return _opened(path, found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=32)
def _opened(path: Path, changed: int, size: int) -> TableFile:
    return TableFile(path)


def _map_arrow(path: Path) -> pa.Table:
    """Memory-map an Arrow stream, as written by ``datasets``, or an Arrow file."""
    mapped = pa.memory_map(str(path))
    try:
        return pa.ipc.open_stream(mapped).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(mapped).read_all()
