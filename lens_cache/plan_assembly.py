"""From the rows of all chunks to the tables of a plan, column by column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lens_cache.plan_files import IMAGES, QUARANTINE, QUERIES
from lens_cache.plan_rows import ASKED, RECORDS, Rows
from lens_cache.plan_tables import Plan


@dataclass
class Assembly:
    """Collects chunks in the order of the dataset; two tables per chunk, no object per query.

    Attributes:
        quarantine: What was left out, and why.
        unreadable: The rows of it that are whole images.
        asked: Ids of the queries that were picked one by one; see ``Rows``.
    """

    quarantine: list[dict[str, str]] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    _records: list[Any] = field(default_factory=list)
    _queries: list[Any] = field(default_factory=list)
    _num_records: int = 0

    def add(self, rows: Rows) -> None:
        """Add the next chunk."""
        self.quarantine += rows.quarantine
        self.unreadable += rows.unreadable
        self.asked += rows.asked
        record = pc.add(rows.queries["record"], pa.scalar(self._num_records, pa.int32()))
        self._queries.append(rows.queries.set_column(0, "record", record))
        self._records.append(rows.records)
        self._num_records += rows.records.num_rows

    @property
    def empty(self) -> bool:
        """Whether nothing usable was added."""
        return self._num_records == 0

    def build(self) -> Plan:
        """Return the plan without draws.

        The same picture under two paths is one image: it stands where it first occurs, with the
        queries of all in their order, each distinct query once.
        """
        records = pa.concat_tables([RECORDS.empty_table(), *self._records]).combine_chunks()
        queries = pa.concat_tables([ASKED.empty_table(), *self._queries])
        first, owners = _first_occurrences(_strings(records["image_id"]))
        return Plan(
            images=_images(records, first, owners),
            queries=_queries(queries, records["image_id"].take(first), owners),
            quarantine=pa.Table.from_pylist(self.quarantine, schema=QUARANTINE),
        )


def _images(records: Any, first: NDArray[np.int64], owners: NDArray[np.int64]) -> Any:
    """Return the table of images from one row per record; ``first`` is the record of an image."""
    chosen, count = records.take(first), len(first)
    columns = {
        "image_id": chosen["image_id"],
        "path": chosen["path"],
        "paths": _lists(records["path"], owners, count),
        "width": chosen["width"],
        "height": chosen["height"],
        "datasets": _lists(records["dataset"], owners, count),
    }
    return _table(columns, IMAGES)


def _queries(queries: Any, image_ids: Any, owners: NDArray[np.int64]) -> Any:
    """Return the table of queries, sorted by image, each once."""
    image = owners[queries["record"].to_numpy()]
    kept, _ = _first_occurrences(_strings(queries["query_id"]))
    kept = kept[np.argsort(image[kept], kind="stable")]
    chosen, image = queries.take(kept), image[kept]
    columns = {name: chosen[name] for name in chosen.column_names if name != "record"}
    columns |= {"image_index": pa.array(image, pa.int32()), "image_id": image_ids.take(image)}
    return _table(columns, QUERIES)


def _first_occurrences(
    keys: NDArray[np.bytes_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each distinct key first occurs, ascending, and the number of each row's key."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return first[order].astype(np.int64), rank[inverse]


def _lists(values: Any, owners: NDArray[np.int64], count: int) -> Any:
    """Return for each of ``count`` owners its distinct values in order, as lists."""
    encoded = values.combine_chunks().dictionary_encode()
    codes = np.asarray(encoded.indices, dtype=np.int64)
    _, kept = np.unique(owners * (len(encoded.dictionary) + 1) + codes, return_index=True)
    kept.sort()
    kept = kept[np.argsort(owners[kept], kind="stable")]
    offsets = np.searchsorted(owners[kept], np.arange(count + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values.take(kept).combine_chunks())


def _strings(column: Any) -> NDArray[np.bytes_]:
    """Return ids as an array of bytes, to be sorted and compared fast."""
    return np.asarray(column.to_pylist(), dtype="S")


def _table(columns: dict[str, Any], schema: Any) -> Any:
    arrays: Sequence[Any] = [columns[f.name] for f in schema]
    plain = [a.combine_chunks() if isinstance(a, pa.ChunkedArray) else a for a in arrays]
    cast = [a.cast(f.type) for a, f in zip(plain, schema, strict=True)]
    return pa.Table.from_arrays(cast, schema=schema)
