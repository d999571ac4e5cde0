"""Where everything of a store lies: the groups, their arrays, and the text tokens of each question.

``hidden_states`` has per tapped layer ``prefix`` (P, d), ``image_tokens`` (images, N, d) and
``text_tokens`` (rows, d); ``image_embeddings`` is one array (images, C, h, w). Arrays over images
have one chunk per image and one shard per lens shard. The text array is flat: every lens shard owns
a region of equal length, so that a shard of the plan is one object of every array. Where tokens are
stored in fp8 or int8 (see ``precision``), their bytes take the place of their channels: (images, N,
bytes), (rows, bytes) and (images, h, w, bytes). The prefix, once in a store, stays as it is.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lens_cache.config.fields import Dtype, Precision
from lens_cache.errors import StoreError
from lens_cache.features.sizes import ceil_div, round_up
from lens_cache.store.precision import TokenCode

Group = Literal["hidden_states", "image_embeddings"]
GROUPS: tuple[Group, ...] = get_args(Group)
TEXT_CHUNK = 128
QUESTIONS_FILE = "hidden_states/questions.parquet"
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "uint8": 1}


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One Zarr array: its path in the store, its shape, and its chunk and shard shapes.

    ``code`` says how bytes, shape (..., token_bytes), stand for tokens; none if the values stand
    there themselves.
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
        """Whether each image has a chunk of its own; otherwise the array is a list of rows."""
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
        """Yield where consecutive rows of a flat array lie: chunk numbers and bytes in them."""
        per_chunk = self.chunk[0]
        for number in range(start // per_chunk, ceil_div(start + length, per_chunk)):
            first = max(start - number * per_chunk, 0)
            last = min(start + length - number * per_chunk, per_chunk)
            yield number, slice(first * self.row_bytes, last * self.row_bytes)

    def object_path(self, shard: int) -> str:
        """Return the store path of a shard object."""
        return "/".join([self.path, "c", str(shard), *["0"] * (len(self.shape) - 1)])


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The text tokens of every query of the plan.

    Attributes:
        token_ids: Per query the ids of its text tokens.
        offsets: Per query the row of its first token in ``text_tokens``, int64.
        region: Rows of the flat array that each shard owns.
    """

    token_ids: Sequence[NDArray[np.int32]]
    offsets: NDArray[np.int64]
    region: int

    @classmethod
    def lay_out(cls, token_ids: Sequence[NDArray[np.int32]], shards: Sequence[range]) -> Questions:
        """Place questions one after another inside the region of their shard.

        Args:
            token_ids: Ids per query, in plan order.
            shards: Per shard the range of its queries in the plan.
        """
        lengths = np.array([len(ids) for ids in token_ids], dtype=np.int64)
        totals = [int(lengths[list(queries)].sum()) for queries in shards]
        region = round_up(max([1, *totals]), TEXT_CHUNK)
        offsets = np.zeros(len(token_ids), dtype=np.int64)
        for shard, queries in enumerate(shards):
            mine = lengths[list(queries)]
            offsets[list(queries)] = shard * region + np.cumsum(mine) - mine
        return cls(token_ids=token_ids, offsets=offsets, region=region)

    def to_bytes(self) -> bytes:
        """Return the table as Parquet; equal content gives equal bytes."""
        table = pa.table(
            {
                "token_ids": pa.array(
                    [ids.tolist() for ids in self.token_ids], pa.list_(pa.int32())
                ),
                "text_offset": pa.array(self.offsets, pa.int64()),
                "text_length": pa.array([len(ids) for ids in self.token_ids], pa.int32()),
            }
        ).replace_schema_metadata({"region": str(self.region)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        return bytes(sink.getvalue())

    @classmethod
    def load(cls, path: Path) -> Questions:
        """Read the table.

        Raises:
            StoreError: If the file is missing or damaged.
        """
        try:
            table = pq.read_table(io.BytesIO(path.read_bytes()))
            return cls(
                token_ids=[
                    np.asarray(ids, dtype=np.int32) for ids in table["token_ids"].to_pylist()
                ],
                offsets=table["text_offset"].to_numpy(),
                region=int(table.schema.metadata[b"region"]),
            )
        except (OSError, KeyError, TypeError, pa.ArrowException) as error:
            raise StoreError(
                f"reading the questions of a store, {path}: {' '.join(str(error).split())}; run "
                "`lens-cache extract` again, it writes what is not there"
            ) from None


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
    """Return the arrays of one tapped layer by their short names."""
    n, d = num_image_tokens, hidden_size
    base = f"hidden_states/layer_{layer}"
    return {
        "prefix": ArraySpec(
            path=f"{base}/prefix",
            shape=(num_prefix, d),
            chunk=(num_prefix, d),
            shard=(num_prefix, d),
            dtype=dtype,
            dimensions=("token", "channel"),
        ),
        "image_tokens": ArraySpec(
            path=f"{base}/image_tokens",
            shape=(num_images, n, d),
            chunk=(1, n, d),
            shard=(shard_size, n, d),
            dtype=dtype,
            dimensions=("image", "token", "channel"),
        ),
        "text_tokens": ArraySpec(
            path=f"{base}/text_tokens",
            shape=(num_shards * region, d),
            chunk=(TEXT_CHUNK, d),
            shard=(region, d),
            dtype=dtype,
            dimensions=("token", "channel"),
        ),
    }


def image_embedding_array(
    *, num_images: int, shard_size: int, channels: int, size: int, dtype: Dtype
) -> ArraySpec:
    """Return the array of SAM's image embeddings."""
    return ArraySpec(
        path="image_embeddings",
        shape=(num_images, channels, size, size),
        chunk=(1, channels, size, size),
        shard=(shard_size, channels, size, size),
        dtype=dtype,
        dimensions=("image", "channel", "y", "x"),
    )


def is_prefix(name: str) -> bool:
    """Tell by its short name whether an array stands once in a store."""
    return name.endswith("prefix")


def in_precision(array: ArraySpec, precision: Precision) -> ArraySpec:
    """Return an array of the model's values as it is stored in a precision."""
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
