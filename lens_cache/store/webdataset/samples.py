"""One sample of a WebDataset store: everything about an image, as members of a tar.

    samples/000007.tar
        ID.json                      image, queries with their masks and text rows
        ID.layer_14.image_tokens.npy (N, d)
        ID.layer_14.text_tokens.npy  (rows of all queries, d)
        ID.image_embeddings.npy      (C, h, w)

``ID`` is the image's id. The arrays are NumPy files; bfloat16 is stored as its bits in uint16, and
the JSON has the dtype (``decode`` returns the values). No member is a pickle. An image that only
some group could extract is stored under ``__incomplete__/``, which WebDataset skips: a stream of a
tar contains complete samples only.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_cache.store.catalogue import Catalogue
from lens_cache.store.layout import ArraySpec
from lens_cache.store.paths import SAMPLES_FOLDER
from lens_cache.store.values import value_attributes

INCOMPLETE = "__incomplete__/"
_NPY = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "uint8": "|u1"}


def tar_path(shard: int) -> str:
    """Return the store path of a shard's tar."""
    return f"{SAMPLES_FOLDER}/{shard:06d}.tar"


def prefix_path(spec: ArraySpec) -> str:
    """Return the store path of an array that a store has once."""
    return f"{spec.path}.npy"


def suffix(name: str) -> str:
    """Return the part of a member's name after the image's id."""
    return f"{name.replace('/', '.')}.npy"


def shape_of(spec: ArraySpec, text_rows: int) -> tuple[int, ...]:
    """Return the shape of the part of an array that belongs to an image."""
    return spec.chunk[1:] if spec.per_image else (text_rows, *spec.shape[1:])


@cache
def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return the header of a NumPy file, format version 1.0.

    NumPy itself has changed its padding between versions.
    """
    text = repr({"descr": _NPY[dtype], "fortran_order": False, "shape": shape})
    body = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


def npy_values(
    data: NDArray[np.uint8], shape: tuple[int, ...], spec: ArraySpec
) -> NDArray[np.uint8] | None:
    """Return a view of the values in a NumPy file; None if the file has another header or size."""
    header = npy_header(shape, spec.dtype)
    size = math.prod(shape) * spec.item_bytes
    if len(data) != len(header) + size or data[: len(header)].tobytes() != header:
        return None
    return data[len(header) :]


def describe_sample(catalogue: Catalogue, image: int, arrays: Iterable[str]) -> bytes:
    """Return the JSON of a sample; equal content is equal bytes.

    Args:
        catalogue: The tables of the store.
        image: Index of the image in the plan.
        arrays: Names of the arrays that have a part of the image.
    """
    planned = catalogue.plan.image(image)
    specs = catalogue.manifest.specs
    rows = catalogue.text_rows(image)
    document = {
        "image_id": planned.image_id,
        "index": image,
        "paths": [str(path) for path in planned.paths],
        "width": planned.width,
        "height": planned.height,
        "datasets": list(planned.datasets),
        "arrays": {
            suffix(name): {
                "array": name,
                "shape": list(shape_of(specs[name], rows)),
                **value_attributes(specs[name]),
            }
            for name in sorted(arrays)
        },
        "queries": [
            _describe_query(catalogue, query) for query in catalogue.plan.query_range(image)
        ],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _describe_query(catalogue: Catalogue, query: int) -> dict[str, Any]:
    planned, rows = catalogue.plan.query(query), catalogue.rows_of(query)
    return {
        "query_id": planned.query_id,
        "dataset": planned.dataset,
        "split": planned.split,
        "instruction": planned.instruction,
        "question": planned.question,
        "kind": planned.kind,
        "length": planned.length,
        "topic": planned.topic,
        "target": planned.target(),
        "ignore": planned.ignore(),
        "token_ids": catalogue.questions.token_ids[query].tolist(),
        "text_rows": [rows.start, rows.stop],
    }
