"""The columns of a plan's tables, and their Parquet files."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lens_cache.errors import LensCacheError, StoreError, one_line


def _schema(**types: pa.DataType) -> pa.Schema:
    """Build a schema in which only ``ignore`` may be null."""
    return pa.schema([pa.field(n, t, nullable=n == "ignore") for n, t in types.items()])


_text = pa.string()
_texts = pa.list_(pa.field("element", pa.string(), nullable=False))
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
# The draws of LISA's sampler: ids of the queries of each draw. Only in plans with draws.
DRAWS = _schema(draw=pa.int32(), queries=_texts)
SCHEMAS = {"quarantine": QUARANTINE, "images": IMAGES, "queries": QUERIES}
DRAWS_FILE = "draws.parquet"
_FILES = tuple(f"{name}.parquet" for name in SCHEMAS)


def to_parquet(table: pa.Table) -> bytes:
    """Return the bytes of a Parquet file; equal tables give equal bytes."""
    sink = io.BytesIO()
    pq.write_table(table, sink, version="2.6", compression="zstd", row_group_size=65536)
    return sink.getvalue()


def read_files(folder: Path, read: Callable[[Path], bytes]) -> dict[str, bytes]:
    """Return the bytes of the Parquet files of a plan by name; ``read`` returns those of a file.

    Raises:
        StoreError: If there is no plan, or it cannot be read.
    """
    try:
        files = {name: read(folder / name) for name in _FILES}
        if (folder / DRAWS_FILE).exists():
            files[DRAWS_FILE] = read(folder / DRAWS_FILE)
    except FileNotFoundError:
        raise StoreError(
            f"reading the plan {folder}: it does not exist; make it with `lens-cache plan`"
        ) from None
    except LensCacheError:
        raise
    except OSError as error:
        raise StoreError(f"reading the plan {folder}: {one_line(error)}") from None
    return files


def from_parquet(data: bytes | None, schema: pa.Schema, where: str) -> pa.Table:
    """Read one Parquet file into contiguous columns; ``where`` is used in errors.

    Raises:
        StoreError: If it is missing, broken or has other columns.
    """
    if data is None:
        raise StoreError(f"reading {where}: it does not exist; make it with `lens-cache plan`")
    try:
        table = pq.read_table(io.BytesIO(data)).combine_chunks()
        table.validate(full=True)  # texts that are not UTF-8 would raise later, when they are used
    except (pa.ArrowException, OSError, ValueError):
        raise StoreError(f"reading {where}: not a readable Parquet file; plan again") from None
    if not table.schema.equals(schema):
        raise StoreError(f"reading {where}: not the columns of a plan; plan again")
    return table


def names_files(ids: pa.ChunkedArray) -> bool:
    """Return whether ids can be names of files: records and members of tars are named by them."""
    plain = pc.match_substring_regex(ids, r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")
    return pc.all(plain).as_py() is not False


def are_consistent(tables: Mapping[str, pa.Table]) -> bool:
    """Return whether queries are sorted by image, and all images and drawn queries exist."""
    images = tables["images"]
    queries = tables["queries"]
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
