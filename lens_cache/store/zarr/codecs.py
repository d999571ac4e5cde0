"""The encodings of stored values as Zarr v3 codecs: ``zarr.open`` returns numbers.

The codecs have the ids and the bytes of ``lens_cache.store.codecs``. In a ``zarr.json`` they are

    {"name": "lens_cache.bfloat16"}
    {"name": "lens_cache.int8", "configuration": {"channels": 4096, "dtype": "bfloat16"}}
    {"name": "lens_cache.fp8", "configuration": {"channels": 256, "dtype": "bfloat16"}}

The first is an array-to-array codec, followed by Zarr's ``bytes``. The others are array-to-bytes
codecs over the last axis; a ``transpose`` moves the channels of a map there. The wrappers of
numcodecs codecs in Zarr (``zarr.codecs.numcodecs``) are not used: each of them requires an id that
begins with ``numcodecs.`` and warns at every opening that it is not part of the Zarr specification.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Self

import numpy as np
from zarr.abc.codec import ArrayArrayCodec, ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import parse_named_configuration
from zarr.dtype import UInt16
from zarr.registry import register_codec

from lens_cache.config.fields import Dtype
from lens_cache.store.codecs import BFLOAT16, FP8, INT8, Bfloat16, Fp8Tokens, Int8Tokens, TokenCodec


@dataclass(frozen=True)
class ZarrBfloat16(ArrayArrayCodec):
    """float32 values to the bits of bfloat16, uint16."""

    is_fixed_size = True

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec that a ``zarr.json`` describes."""
        parse_named_configuration(data, BFLOAT16, require_configuration=False)
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Return the description for ``zarr.json``."""
        return {"name": BFLOAT16}

    def resolve_metadata(self, chunk_spec: ArraySpec) -> ArraySpec:
        """Return the spec of the encoded chunk."""
        fill = Bfloat16().encode(np.atleast_1d(chunk_spec.fill_value))[0]
        return replace(chunk_spec, dtype=UInt16(), fill_value=fill)

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Return the bytes of an encoded chunk."""
        return input_byte_length // 2

    async def _decode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer:
        values = Bfloat16().decode(chunk_data.as_numpy_array())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> NDBuffer:
        bits = Bfloat16().encode(chunk_data.as_numpy_array())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(bits)


@dataclass(frozen=True)
class ZarrTokens(ArrayBytesCodec):
    """Tokens, the last axis, to their bytes.

    Attributes:
        channels: Number of channels of a token.
        dtype: The model's precision.
    """

    is_fixed_size = True
    name: ClassVar[str]
    codec_class: ClassVar[type[TokenCodec]]

    channels: int
    dtype: Dtype

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec that a ``zarr.json`` describes."""
        _, configuration = parse_named_configuration(data, cls.name)
        return cls(**configuration)  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """Return the description for ``zarr.json``."""
        configuration = {"channels": self.channels, "dtype": self.dtype}
        return {"name": self.name, "configuration": configuration}

    def compute_encoded_size(self, _input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Return the bytes of an encoded chunk."""
        return prod(chunk_spec.shape[:-1]) * self._codec.token_bytes

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        values = await asyncio.to_thread(self._codec.decode, chunk_data.to_bytes())
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        data = await asyncio.to_thread(self._codec.encode, chunk_data.as_numpy_array())
        return chunk_spec.prototype.buffer.from_bytes(data.tobytes())

    @property
    def _codec(self) -> TokenCodec:
        return self.codec_class(self.channels, self.dtype)


class ZarrInt8(ZarrTokens):
    """Tokens as int8 with a scale per token and separate outlier channels."""

    name = INT8
    codec_class = Int8Tokens


class ZarrFp8(ZarrTokens):
    """Tokens as fp8 (e4m3) with a scale per token."""

    name = FP8
    codec_class = Fp8Tokens


def register() -> None:
    """Register the codecs with Zarr."""
    register_codec(BFLOAT16, ZarrBfloat16)
    register_codec(INT8, ZarrInt8)
    register_codec(FP8, ZarrFp8)
