"""One sample of a WebDataset store: everything about an image, as members of a tar.

    samples/000007.tar
        ID.json                      image, queries with their masks, where their rows lie
        ID.layer_14.image_tokens.npy (N, d)
        ID.layer_14.text_tokens.npy  (rows of all queries, d)
        ID.image_embeddings.npy      (C, h, w)

``ID`` is the image's id. The arrays are NumPy files, which WebDataset's own ``decode()`` opens;
bfloat16 stands as its bits in uint16, and the JSON says so. Nothing is a pickle. An image that
only some group could extract lies below ``__incomplete__/``, which WebDataset passes over: who
streams a tar meets whole samples alone.
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
    """Return the store path of an array that stands once in a store."""
    return f"{spec.path}.npy"


def suffix(name: str) -> str:
    """Return what follows an image's id in the name of the member that holds its part."""
    return f"{name.replace('/', '.')}.npy"


def shape_of(spec: ArraySpec, text_rows: int) -> tuple[int, ...]:
    """Return the shape of an image's part of an array."""
    return spec.chunk[1:] if spec.per_image else (text_rows, *spec.shape[1:])


@cache
def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return what stands before the values in a NumPy file, format version 1.0.

    Made here and not by NumPy, whose padding has changed between its versions.
    """
    text = repr({"descr": _NPY[dtype], "fortran_order": False, "shape": shape})
    body = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body


def npy_values(
    data: NDArray[np.uint8], shape: tuple[int, ...], spec: ArraySpec
) -> NDArray[np.uint8] | None:
    """Return a view of the values in a NumPy file; nothing if it is not what is expected."""
    header = npy_header(shape, spec.dtype)
    size = math.prod(shape) * spec.item_bytes
    if len(data) != len(header) + size or data[: len(header)].tobytes() != header:
        return None
    return data[len(header) :]


def describe_sample(catalogue: Catalogue, image: int, arrays: Iterable[str]) -> bytes:
    """Return the JSON of a sample; equal content is equal bytes.

    Args:
        catalogue: Where the image comes from.
        image: Its index in the plan.
        arrays: Names of the arrays that hold a part of it.
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
