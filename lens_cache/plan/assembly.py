"""Join the rows of all chunks to the tables of a plan, column by column."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lens_cache.plan.plan import Plan
from lens_cache.plan.rows import RECORD_QUERIES, RECORDS, Rows
from lens_cache.plan.schema import IMAGES, QUARANTINE, QUERIES


@dataclass
class Assembly:
    """Collects chunks in the order of the dataset, as pieces of columns: no object per query.

    The pieces of a column are released when they are concatenated, so masks, which are most of a
    plan, are in memory at most twice.

    Attributes:
        quarantine: Skipped entries with the reason.
        unreadable: The rows of ``quarantine`` that are whole images.
        picked_ids: Ids of the queries that were picked one by one; see ``Rows``.
    """

    quarantine: list[dict[str, str]] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    picked_ids: list[str] = field(default_factory=list)
    _records: dict[str, list[pa.Array]] = field(default_factory=lambda: _pieces(RECORDS))
    _queries: dict[str, list[pa.Array]] = field(default_factory=lambda: _pieces(RECORD_QUERIES))
    _num_records: int = 0

    def add(self, rows: Rows) -> None:
        """Add the next chunk."""
        self.quarantine += rows.quarantine
        self.unreadable += rows.unreadable
        self.picked_ids += rows.picked_ids
        record = pc.add(rows.queries["record"], pa.scalar(self._num_records, pa.int32()))
        _append(self._queries, rows.queries.set_column(0, "record", record))
        _append(self._records, rows.records)
        self._num_records += rows.records.num_rows

    @property
    def empty(self) -> bool:
        """Whether nothing usable was added."""
        return self._num_records == 0

    def build(self) -> Plan:
        """Return the plan without draws; can be called only once.

        Files with equal content are one image, at the position of the first one, with the queries
        of all files in their order; equal queries are merged.
        """
        records = {name: _joined(self._records, name) for name in RECORDS.names}
        first, owners = _first_occurrences(records["image_id"])
        return Plan(
            images=_images(records, first, owners),
            queries=_queries(self._queries, records["image_id"].take(first), owners),
            quarantine=pa.Table.from_pylist(self.quarantine, schema=QUARANTINE),
        )


def _pieces(schema: pa.Schema) -> dict[str, list[pa.Array]]:
    return {f.name: [pa.array([], f.type)] for f in schema}


def _append(pieces: dict[str, list[pa.Array]], table: pa.Table) -> None:
    for name, kept in pieces.items():
        kept.append(table[name].combine_chunks())


def _joined(pieces: dict[str, list[pa.Array]], name: str) -> pa.Array:
    """Return a column in one piece, and remove its pieces from ``pieces``."""
    return pa.concat_arrays(pieces.pop(name))


def _images(
    records: dict[str, pa.Array], first: NDArray[np.int64], owners: NDArray[np.int64]
) -> pa.Table:
    """Return the table of images.

    Args:
        records: Columns of ``RECORDS``, one row per record.
        first: The first record of each image, shape (images,).
        owners: The image of each record, shape (records,).
    """
    columns = {name: records[name].take(first) for name in ("image_id", "path", "width", "height")}
    columns["paths"] = _lists(records["path"], owners, len(first))
    columns["datasets"] = _lists(records["dataset"], owners, len(first))
    return _table(columns, IMAGES)


def _queries(
    pieces: dict[str, list[pa.Array]], image_ids: pa.Array, owners: NDArray[np.int64]
) -> pa.Table:
    """Return the table of distinct queries, sorted by image; ``owners`` as in ``_images``."""
    image = owners[_joined(pieces, "record").to_numpy()]
    query_ids = _joined(pieces, "query_id")
    kept, _ = _first_occurrences(query_ids)
    kept = kept[np.argsort(image[kept], kind="stable")]
    columns = {
        "query_id": query_ids.take(kept),
        "image_index": pa.array(image[kept], pa.int32()),
        "image_id": image_ids.take(image[kept]),
    }
    columns |= {name: _joined(pieces, name).take(kept) for name in list(pieces)}
    return _table(columns, QUERIES)


def _first_occurrences(ids: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first row of each distinct id, ascending, and for each row the index of its id."""
    keys = np.asarray(ids.to_pylist(), dtype="S")  # sorts faster than an object array
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[inverse]


def _lists(values: pa.Array, owners: NDArray[np.int64], count: int) -> pa.ListArray:
    """Return for each of ``count`` owners the list of its distinct values, in order."""
    encoded = values.dictionary_encode()
    codes = np.asarray(encoded.indices, dtype=np.int64)
    _, kept = np.unique(owners * (len(encoded.dictionary) + 1) + codes, return_index=True)
    kept.sort()
    kept = kept[np.argsort(owners[kept], kind="stable")]
    offsets = np.searchsorted(owners[kept], np.arange(count + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.take(kept))


def _table(columns: dict[str, pa.Array], schema: pa.Schema) -> pa.Table:
    arrays = [columns[f.name].cast(f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)
