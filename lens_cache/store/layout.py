"""The feature groups of a store, their arrays, and how images are divided into shards.

The group ``hidden_states`` has per tapped layer the arrays ``prefix`` (P, d), ``image_tokens``
(images, N, d) and ``text_tokens`` (rows, d); the group ``image_embeddings`` is one array
(images, C, h, w). Arrays over images have one chunk per image and one Zarr shard per shard of the
store. The text array is flat: every shard of the store owns a region of equal length, so that a
shard is one object of every array. Where tokens are stored in fp8 or int8 (see ``precision``), the
channel axis is replaced by an axis of bytes: (images, N, bytes), (rows, bytes) and
(images, h, w, bytes). The prefix is stored once, always in the model's precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

from lens_cache.config.fields import Dtype, Precision
from lens_cache.features.sizes import ceil_div
from lens_cache.store.precision import TokenCode

Group = Literal["hidden_states", "image_embeddings"]
GROUPS: tuple[Group, ...] = get_args(Group)
# What is stored of a tapped layer.
Part = Literal["prefix", "image_tokens", "text_tokens"]
PARTS: tuple[Part, ...] = get_args(Part)
# The one array of the group ``image_embeddings``.
IMAGE_EMBEDDINGS = "image_embeddings"
TEXT_CHUNK = 128  # rows
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "uint8": 1}


def array_name(layer: int, part: Part) -> str:
    """Return the name in the manifest of one part of a tapped layer's states."""
    return f"layer_{layer}/{part}"


def part_of(name: str) -> Part | None:
    """Return which part of a layer's states an array stores; None for ``image_embeddings``."""
    _, _, part = name.partition("/")
    return next((known for known in PARTS if known == part), None)


def is_prefix(name: str) -> bool:
    """Return whether an array is a prefix, which a store has once and not per image."""
    return part_of(name) == "prefix"


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One array of a store.

    Attributes:
        path: Its path in the store.
        shape: Its shape.
        chunk: Shape of a chunk.
        shard: Shape of a Zarr shard.
        dtype: Type of the stored values.
        dimensions: Names of its axes.
        code: How tokens are encoded as bytes, (..., token_bytes); None if the values are stored
            as they are.
    """

    path: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]
    dtype: Dtype | Literal["uint8"]
    dimensions: tuple[str, ...]
    code: TokenCode | None = None

    @property
    def is_map(self) -> bool:
        """Whether the values of an image are a map, (C, h, w)."""
        return "y" in self.dimensions

    @property
    def per_image(self) -> bool:
        """Whether the first axis is the image, with one chunk per image."""
        return self.dimensions[0] == "image"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of an image's values in an array over images, in the model's precision."""
        if self.code is None:
            return self.chunk[1:]
        *tokens, _ = self.chunk[1:]
        channels = self.code.channels
        return (channels, *tokens) if self.is_map else (*tokens, channels)

    @property
    def item_bytes(self) -> int:
        """Bytes of one value."""
        return _BYTES[self.dtype]

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one entry along the first axis."""
        return self.chunk_bytes // self.chunk[0]

    @cached_property
    def chunk_bytes(self) -> int:
        """Bytes of one chunk."""
        return math.prod(self.chunk) * self.item_bytes

    @cached_property
    def chunks_per_shard(self) -> int:
        """Chunks in one shard object."""
        return self.shard[0] // self.chunk[0]

    def row_slices(self, start: int, length: int) -> Iterator[tuple[int, slice]]:
        """Yield per chunk that has some of the rows its number and the slice of its bytes.

        Args:
            start: First row of a flat array.
            length: Number of rows.
        """
        per_chunk = self.chunk[0]
        for number in range(start // per_chunk, ceil_div(start + length, per_chunk)):
            first = max(start - number * per_chunk, 0)
            last = min(start + length - number * per_chunk, per_chunk)
            yield number, slice(first * self.row_bytes, last * self.row_bytes)

    def object_path(self, shard: int) -> str:
        """Return the store path of a shard object."""
        return "/".join([self.path, "c", str(shard), *["0"] * (len(self.shape) - 1)])


def hidden_state_arrays(
    layer: int,
    *,
    num_images: int,
    num_shards: int,
    shard_size: int,
    region: int,
    num_prefix: int,
    num_image_tokens: int,
    hidden_size: int,
    dtype: Dtype,
) -> dict[str, ArraySpec]:
    """Return the arrays of one tapped layer by name, in the model's precision.

    Args:
        layer: The layer.
        num_images: Images of the plan.
        num_shards: Shards of the store.
        shard_size: Images of a shard.
        region: Rows of the flat text array that each shard owns.
        num_prefix: Tokens of the system prefix.
        num_image_tokens: Tokens of an image.
        hidden_size: Channels of a token.
        dtype: Type of the states.
    """

    def spec(
        part: Part,
        *,
        shape: tuple[int, ...],
        chunk: tuple[int, ...],
        shard: tuple[int, ...],
        dimensions: tuple[str, ...],
    ) -> ArraySpec:
        path = f"hidden_states/{array_name(layer, part)}"
        return ArraySpec(
            path=path, shape=shape, chunk=chunk, shard=shard, dtype=dtype, dimensions=dimensions
        )

    n, d = num_image_tokens, hidden_size
    prefix = (num_prefix, d)
    return {
        array_name(layer, "prefix"): spec(
            "prefix", shape=prefix, chunk=prefix, shard=prefix, dimensions=("token", "channel")
        ),
        array_name(layer, "image_tokens"): spec(
            "image_tokens",
            shape=(num_images, n, d),
            chunk=(1, n, d),
            shard=(shard_size, n, d),
            dimensions=("image", "token", "channel"),
        ),
        array_name(layer, "text_tokens"): spec(
            "text_tokens",
            shape=(num_shards * region, d),
            chunk=(TEXT_CHUNK, d),
            shard=(region, d),
            dimensions=("token", "channel"),
        ),
    }


def image_embedding_array(
    *, num_images: int, shard_size: int, channels: int, size: int, dtype: Dtype
) -> ArraySpec:
    """Return the array of SAM's image embeddings."""
    return ArraySpec(
        path=IMAGE_EMBEDDINGS,
        shape=(num_images, channels, size, size),
        chunk=(1, channels, size, size),
        shard=(shard_size, channels, size, size),
        dtype=dtype,
        dimensions=("image", "channel", "y", "x"),
    )


def in_precision(array: ArraySpec, precision: Precision) -> ArraySpec:
    """Return the spec of an array, given in the model's precision, in another one."""
    if precision == "model" or array.dtype == "uint8":
        return array
    axis = array.dimensions.index("channel")
    code = TokenCode(precision=precision, dtype=array.dtype, channels=array.shape[axis])

    def stored(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (*shape[:axis], *shape[axis + 1 :], code.token_bytes)

    names = (name for name in array.dimensions if name != "channel")
    return replace(
        array,
        shape=stored(array.shape),
        chunk=stored(array.chunk),
        shard=stored(array.shard),
        dtype="uint8",
        dimensions=(*names, "byte"),
        code=code,
    )


def shard_images(num_images: int, shard_size: int) -> list[range]:
    """Return the image indices of every shard."""
    return [
        range(start, min(start + shard_size, num_images))
        for start in range(0, num_images, shard_size)
    ]
