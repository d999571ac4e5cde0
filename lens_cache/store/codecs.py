"""The encodings of stored values as numcodecs codecs, so that other programs can read them.

============================ =========================== ==================================
id                           numbers                     stored as
============================ =========================== ==================================
``lens_cache.bfloat16``      float32, any shape          the upper 16 bits, uint16
``lens_cache.int8``          (..., channels)             int8, a scale, outlier channels
``lens_cache.fp8``           (..., channels)             fp8 (e4m3) and a scale
============================ =========================== ==================================

Importing ``lens_cache.store`` registers them with numcodecs. Where lens-cache is installed, entry
points do so without an import. ``lens_cache.store.zarr.codecs`` has the same codecs for Zarr v3.
The store reads and writes through ``TokenCode``, which these codecs share.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numcodecs.abc import Codec
from numcodecs.compat import ensure_ndarray, ndarray_copy
from numcodecs.registry import register_codec
from numpy.typing import NDArray

from lens_cache.config.fields import Dtype
from lens_cache.store.precision import TokenCode

BFLOAT16 = "lens_cache.bfloat16"
INT8 = "lens_cache.int8"
FP8 = "lens_cache.fp8"


class Bfloat16(Codec):  # type: ignore[misc]
    """Stores float32 values as the bits of bfloat16, uint16; rounds to nearest, ties to even."""

    codec_id = BFLOAT16

    def encode(self, buf: Any) -> NDArray[np.uint16]:
        """Return the bits of values, uint16, of the same shape."""
        values = torch.from_numpy(np.array(buf, dtype=np.float32))
        bits: NDArray[np.uint16] = values.bfloat16().view(torch.uint16).numpy()
        return bits

    def decode(self, buf: Any, out: Any = None) -> NDArray[np.float32]:
        """Return the values of bits, float32, of the same shape; exact."""
        bits = ensure_ndarray(buf).view(np.uint16)
        values = np.left_shift(bits, 16, dtype=np.uint32).view(np.float32)
        return ndarray_copy(values, out)  # type: ignore[no-any-return]


class TokenCodec(Codec):  # type: ignore[misc]
    """Stores tokens in less than the model's precision; see ``TokenCode``.

    Args:
        channels: Number of channels of a token, the last axis.
        dtype: The model's precision. Values are rounded to it first, and decoded to it; bfloat16
            is decoded to float32, since NumPy does not have it.
    """

    precision: ClassVar[Literal["fp8", "int8"]]

    def __init__(self, channels: int, dtype: Dtype) -> None:
        self.channels = channels
        self.dtype = dtype
        self._code = TokenCode(precision=self.precision, dtype=dtype, channels=channels)

    @property
    def token_bytes(self) -> int:
        """Number of bytes of an encoded token."""
        return self._code.token_bytes

    def encode(self, buf: Any) -> NDArray[np.uint8]:
        """Encode finite values, shape (..., channels), as bytes, shape (..., token_bytes)."""
        tokens = torch.from_numpy(np.array(buf)).to(getattr(torch, self.dtype))
        data: NDArray[np.uint8] = self._code.encode(tokens).numpy()
        return data

    def decode(self, buf: Any, out: Any = None) -> NDArray[Any]:
        """Decode bytes to values, shape (tokens, channels)."""
        data = np.frombuffer(bytearray(buf), np.uint8).reshape(-1, self.token_bytes)
        tokens = self._code.decode(torch.from_numpy(data))
        values = tokens.float() if self.dtype == "bfloat16" else tokens
        return ndarray_copy(values.numpy(), out)  # type: ignore[no-any-return]


class Int8Tokens(TokenCodec):
    """Stores tokens as int8 with a scale per token and separate outlier channels."""

    codec_id = INT8
    precision = "int8"


class Fp8Tokens(TokenCodec):
    """Stores tokens as fp8 (e4m3) with a scale per token."""

    codec_id = FP8
    precision = "fp8"


def register() -> None:
    """Register the codecs with numcodecs."""
    for codec in (Bfloat16, Int8Tokens, Fp8Tokens):
        register_codec(codec)
