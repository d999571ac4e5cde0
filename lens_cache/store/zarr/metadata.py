"""Zarr v3 metadata: the ``zarr.json`` files that make the shards of a store Zarr arrays.

The metadata describes numbers, not their encoding: an array stored as bfloat16, int8 or fp8 has a
codec (see ``codecs``) that a Zarr client decodes it with. Stores written before these codecs
describe the encoded values instead (uint16 or uint8). The bytes of the shards are the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import zarr
from zarr.codecs import TransposeCodec

from lens_cache.store.layout import ArraySpec
from lens_cache.store.values import value_attributes
from lens_cache.store.zarr.codecs import ZarrBfloat16, ZarrFp8, ZarrInt8

_ENCODED_DTYPE = {"bfloat16": "uint16"}  # NumPy has no bfloat16
_DECODED_DTYPE = {"bfloat16": "float32"}
_TOKENS = {"int8": ZarrInt8, "fp8": ZarrFp8}


def metadata(root: Path, arrays: Iterable[ArraySpec]) -> dict[str, bytes]:
    """Return every ``zarr.json`` of the arrays and the groups above them, by its path in the store.

    Documents of stores written before the codecs are kept as they are.
    """
    arrays = list(arrays)
    written_before = _documents(arrays, _encoded)
    return {
        name: written_before[name] if _is(root / name, written_before[name]) else content
        for name, content in _documents(arrays, _decoded).items()
    }


def _is(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def _documents(
    arrays: Iterable[ArraySpec], describe: Callable[[ArraySpec], dict[str, Any]]
) -> dict[str, bytes]:
    """Return the ``zarr.json`` documents by their paths in the store; Zarr itself makes them."""
    with tempfile.TemporaryDirectory() as scratch:
        group = zarr.open_group(scratch, mode="w")
        for spec in arrays:
            group.create_array(spec.path, compressors=None, fill_value=0, **describe(spec))
        return {
            path.relative_to(scratch).as_posix(): path.read_bytes()
            for path in sorted(Path(scratch).rglob("zarr.json"))
        }


def _encoded(spec: ArraySpec) -> dict[str, Any]:
    """Describe the encoded values of an array."""
    return {
        "shape": spec.shape,
        "chunks": spec.chunk,
        "shards": spec.shard,
        "dtype": _ENCODED_DTYPE.get(spec.dtype, spec.dtype),
        "filters": None,
        "dimension_names": spec.dimensions,
        "attributes": value_attributes(spec),
    }


def _decoded(spec: ArraySpec) -> dict[str, Any]:
    """Describe the numbers of an array."""
    if spec.code is None:
        filters = [ZarrBfloat16()] if spec.dtype == "bfloat16" else None
        dtype = _DECODED_DTYPE.get(spec.dtype, spec.dtype)
        return {**_encoded(spec), "dtype": dtype, "filters": filters}
    code = spec.code
    axis = 1 if spec.is_map else len(spec.shape) - 1

    def decoded(sizes: tuple[Any, ...], channels: object) -> tuple[Any, ...]:
        tokens = sizes[:-1]
        return (*tokens[:axis], channels, *tokens[axis:])

    return {
        "shape": decoded(spec.shape, code.channels),
        "chunks": decoded(spec.chunk, code.channels),
        "shards": decoded(spec.shard, code.channels),
        "dtype": _DECODED_DTYPE.get(code.dtype, code.dtype),
        "filters": [TransposeCodec(order=(0, 2, 3, 1))] if spec.is_map else None,
        "serializer": _TOKENS[code.precision](channels=code.channels, dtype=code.dtype),
        "dimension_names": decoded(spec.dimensions, "channel"),
        "attributes": {"dtype": code.dtype},
    }
