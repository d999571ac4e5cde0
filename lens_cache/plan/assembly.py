"""From the rows of all chunks to the tables of a plan, column by column."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lens_cache.plan.plan import Plan
from lens_cache.plan.rows import ASKED, RECORDS, Rows
from lens_cache.plan.schema import IMAGES, QUARANTINE, QUERIES


@dataclass
class Assembly:
    """Collects chunks in the order of the dataset, as pieces of columns: no object per query.

    The pieces of a column are given up when it is put together, so that masks, which are most of a
    plan, are held twice at most.

    Attributes:
        quarantine: What was left out, and why.
        unreadable: The rows of it that are whole images.
        asked: Ids of the queries that were picked one by one; see ``Rows``.
    """

    quarantine: list[dict[str, str]] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    _records: dict[str, list[Any]] = field(default_factory=lambda: _pieces(RECORDS))
    _queries: dict[str, list[Any]] = field(default_factory=lambda: _pieces(ASKED))
    _num_records: int = 0

    def add(self, rows: Rows) -> None:
        """Add the next chunk."""
        self.quarantine += rows.quarantine
        self.unreadable += rows.unreadable
        self.asked += rows.asked
        record = pc.add(rows.queries["record"], pa.scalar(self._num_records, pa.int32()))
        for pieces, table in (
            (self._queries, rows.queries.set_column(0, "record", record)),
            (self._records, rows.records),
        ):
            for name, kept in pieces.items():
                kept.append(table[name].combine_chunks())
        self._num_records += rows.records.num_rows

    @property
    def empty(self) -> bool:
        """Whether nothing usable was added."""
        return self._num_records == 0

    def build(self) -> Plan:
        """Return the plan without draws; it can be called once.

        The same picture under two paths is one image: it stands where it first occurs, with the
        queries of all in their order, each distinct query once.
        """
        records = {name: _joined(self._records, name) for name in RECORDS.names}
        first, owners = _first_occurrences(records["image_id"])
        return Plan(
            images=_images(records, first, owners),
            queries=_queries(self._queries, records["image_id"].take(first), owners),
            quarantine=pa.Table.from_pylist(self.quarantine, schema=QUARANTINE),
        )


def _pieces(schema: Any) -> dict[str, list[Any]]:
    return {f.name: [pa.array([], f.type)] for f in schema}


def _joined(pieces: dict[str, list[Any]], name: str) -> Any:
    """Return a column in one piece, and give up its pieces."""
    return pa.concat_arrays(pieces.pop(name))


def _images(records: dict[str, Any], first: NDArray[np.int64], owners: NDArray[np.int64]) -> Any:
    """Return the table of images from one row per record; ``first`` is the record of an image."""
    columns = {name: records[name].take(first) for name in ("image_id", "path", "width", "height")}
    columns["paths"] = _lists(records["path"], owners, len(first))
    columns["datasets"] = _lists(records["dataset"], owners, len(first))
    return _table(columns, IMAGES)


def _queries(pieces: dict[str, list[Any]], image_ids: Any, owners: NDArray[np.int64]) -> Any:
    """Return the table of queries, sorted by image, each once."""
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


def _first_occurrences(
    ids: Any,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each distinct id first occurs, ascending, and the number of each row's id."""
    keys = np.asarray(ids.to_pylist(), dtype="S")  # sorts faster than objects do
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[inverse]


def _lists(values: Any, owners: NDArray[np.int64], count: int) -> Any:
    """Return for each of ``count`` owners its distinct values in order, as lists."""
    encoded = values.dictionary_encode()
    codes = np.asarray(encoded.indices, dtype=np.int64)
    _, kept = np.unique(owners * (len(encoded.dictionary) + 1) + codes, return_index=True)
    kept.sort()
    kept = kept[np.argsort(owners[kept], kind="stable")]
    offsets = np.searchsorted(owners[kept], np.arange(count + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.take(kept))


def _table(columns: dict[str, Any], schema: Any) -> Any:
    arrays = [columns[f.name].cast(f.type) for f in schema]
    return pa.Table.from_arrays(arrays, schema=schema)
