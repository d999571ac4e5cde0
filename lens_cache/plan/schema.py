"""The columns of a plan, and how its tables become files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lens_cache.errors import StoreError


def _schema(**types: Any) -> Any:
    """Build a schema in which only ``ignore`` may be empty."""
    return pa.schema([pa.field(n, t, nullable=n == "ignore") for n, t in types.items()])


_text, _texts = pa.string(), pa.list_(pa.field("element", pa.string(), nullable=False))
IMAGES = _schema(
    image_id=_text, path=_text, paths=_texts, width=pa.int32(), height=pa.int32(), datasets=_texts
)
QUERIES = _schema(
    query_id=_text,
    image_index=pa.int32(),
    image_id=_text,
    dataset=_text,
    split=_text,
    instruction=_text,
    question=_text,
    kind=_text,
    length=_text,
    topic=_text,
    target=pa.large_string(),  # masks of a large dataset exceed the 2 GB of a plain string column
    ignore=pa.large_string(),
)
QUARANTINE = _schema(path=_text, what=_text, reason=_text)
# What LISA's sampler drew: the queries of each draw, by id. Not in every plan.
DRAWS = _schema(draw=pa.int32(), queries=_texts)
SCHEMAS = {"quarantine": QUARANTINE, "images": IMAGES, "queries": QUERIES}
DRAWS_FILE = "draws.parquet"
FILES = tuple(f"{name}.parquet" for name in SCHEMAS)


def to_parquet(table: Any) -> bytes:
    """Return a table as a Parquet file; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, version="2.6", compression="zstd", row_group_size=65536)
    return sink.getvalue()


def from_parquet(data: bytes | None, schema: Any, where: str) -> Any:
    """Read one Parquet file into contiguous columns; ``where`` is named in errors.

    Raises:
        StoreError: If it is missing, broken or has other columns.
    """
    if data is None:
        raise StoreError(f"reading {where}: it is not there; make it with `lens-cache plan`")
    try:
        table = pq.read_table(io.BytesIO(data)).combine_chunks()
    except (pa.ArrowException, OSError):
        raise StoreError(f"reading {where}: not a readable Parquet file; plan again") from None
    if not table.schema.equals(schema):
        raise StoreError(f"reading {where}: not the columns of a plan; plan again")
    return table


def belong_together(tables: Mapping[str, Any]) -> bool:
    """Tell whether queries are sorted and their images, and the queries of draws, are there."""
    images, queries = tables["images"], tables["queries"]
    owners = queries["image_index"].to_numpy()
    if len(owners) and (owners[0] < 0 or owners[-1] >= images.num_rows):
        return False
    if (np.diff(owners) < 0).any():
        return False
    if not images["image_id"].take(queries["image_index"]).equals(queries["image_id"]):
        return False
    if "draws" not in tables:
        return True
    drawn = pc.list_flatten(tables["draws"]["queries"])
    return bool(pc.all(pc.is_in(drawn, queries["query_id"].combine_chunks())).as_py() is not False)
