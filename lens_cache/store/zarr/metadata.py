"""Zarr v3 metadata: what makes the shard files of a store arrays that any Zarr client opens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import zarr

from lens_cache.store.io.files import write_bytes
from lens_cache.store.layout import ArraySpec
from lens_cache.store.values import value_attributes

# Zarr has no bfloat16 on every Python this package runs on: its bits are stored as uint16.
_ZARR_DTYPE = {"float32": "float32", "float16": "float16", "bfloat16": "uint16", "uint8": "uint8"}


def write_metadata(root: Path, arrays: Iterable[ArraySpec]) -> None:
    """Write ``zarr.json`` for the arrays and the groups above them, where the content differs.

    Zarr itself makes the documents, in a scratch folder; they are then moved into place one by one,
    so that a reader never meets half a document.
    """
    with tempfile.TemporaryDirectory() as scratch:
        group = zarr.open_group(scratch, mode="w")
        for spec in arrays:
            group.create_array(
                spec.path,
                shape=spec.shape,
                chunks=spec.chunk,
                shards=spec.shard,
                dtype=_ZARR_DTYPE[spec.dtype],
                compressors=None,
                filters=None,
                fill_value=0,
                dimension_names=spec.dimensions,
                attributes=value_attributes(spec),
            )
        for document in sorted(Path(scratch).rglob("zarr.json")):
            final = root / document.relative_to(scratch).as_posix()
            content = document.read_bytes()
            if not final.exists() or final.read_bytes() != content:
                write_bytes(root, final, content)
