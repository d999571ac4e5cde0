"""The text tokens of every query, and their rows in the flat text arrays."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lens_cache.errors import LensCacheError, StoreError
from lens_cache.features.sizes import round_up
from lens_cache.plan.plan import Plan
from lens_cache.store.layout import TEXT_CHUNK, shard_images

_READ = methodcaller("read_bytes")


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
        """Place questions one after another in the region of their shard.

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

    @classmethod
    def for_plan(
        cls, plan: Plan, token_ids: Sequence[NDArray[np.int32]], shard_size: int
    ) -> Questions:
        """Place the questions of a plan; ``token_ids`` are in the order of its queries."""
        shards = [
            range(plan.query_range(images[0]).start, plan.query_range(images[-1]).stop)
            for images in shard_images(plan.num_images, shard_size)
        ]
        return cls.lay_out(token_ids, shards)

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
    def load(cls, path: Path, read: Callable[[Path], bytes] = _READ) -> Questions:
        """Read the table; ``read`` returns the bytes of a file, and a store checks them.

        Raises:
            StoreError: If the file is missing or damaged.
        """
        try:
            table = pq.read_table(io.BytesIO(read(path)))
            return cls(
                token_ids=[
                    np.asarray(ids, dtype=np.int32) for ids in table["token_ids"].to_pylist()
                ],
                offsets=table["text_offset"].to_numpy(),
                region=int(table.schema.metadata[b"region"]),
            )
        except LensCacheError:
            raise
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise StoreError(
                f"reading the questions of a store, {path}: {' '.join(str(error).split())}; run "
                "`lens-cache extract` again to write them"
            ) from None
