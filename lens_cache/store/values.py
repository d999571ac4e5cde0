"""Convert between tensors and their bytes in an array."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.store.layout import ArraySpec


def to_bytes(tensor: Tensor, spec: ArraySpec) -> bytes:
    """Return an image's part of an array as it is stored, row-major; bfloat16 as its bits.

    Args:
        tensor: (N, d), (rows, d) or (C, h, w), in the model's precision.
        spec: The array.
    """
    values = tensor.detach().to("cpu")
    if spec.code is not None:
        values = spec.code.encode(values.movedim(0, -1) if spec.is_map else values)
    return plain_bytes(values)


def plain_bytes(tensor: Tensor) -> bytes:
    """Return a tensor's values as bytes, row-major."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def to_tensor(values: NDArray[np.uint8], spec: ArraySpec) -> Tensor:
    """Return an image's part of an array, or some of its rows, in the model's precision."""
    shape = spec.chunk[1:] if spec.per_image else (-1, *spec.chunk[1:])
    data = torch.from_numpy(values)
    if spec.code is None:
        return data.view(getattr(torch, spec.dtype)).reshape(shape)
    tokens = spec.code.decode(data.reshape(shape))
    return tokens.movedim(-1, 0).contiguous() if spec.is_map else tokens


def value_attributes(spec: ArraySpec) -> dict[str, Any]:
    """Return what a reader of the plain array has to know of its values, for JSON."""
    attributes: dict[str, Any] = {"dtype": spec.dtype}
    return attributes if spec.code is None else attributes | {"tokens": asdict(spec.code)}
