"""Open a store and read the features of its images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.errors import CorruptShardError, StoreError
from lens_cache.frozen import FrozenParts
from lens_cache.plan import Plan
from lens_cache.store.commits import committed_shards, quarantined
from lens_cache.store.layout import GROUPS, QUESTIONS_FILE, ArraySpec, Questions
from lens_cache.store.manifest import Manifest
from lens_cache.store.shard_file import ShardReader
from lens_cache.types import ImageFeatures

PLAN_FOLDER = "plan"
FROZEN_FOLDER = "frozen"
_OPEN_SHARDS = 256


class Store:
    """A complete feature cache, opened for reading.

    Attributes:
        root: The store's folder.
        manifest: What the store is.
        plan: Its images and queries.
    """

    def __init__(self, root: Path) -> None:
        """Open a store.

        Raises:
            StoreError: If it is missing or not complete.
        """
        self.root = root
        self.manifest = Manifest.load(root)
        if not self.manifest.complete:
            raise StoreError(
                f"opening the store {root}: its extraction has not finished; run the same "
                "`lens-cache extract` again, it goes on where it stopped"
            )
        self.plan = Plan.load(root / PLAN_FOLDER)
        self.questions = Questions.load(root / QUESTIONS_FILE)
        self._missing = {image_id for group in GROUPS for image_id in quarantined(root, group)}
        self._shard = lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        """Let a process that does not fork, such as a spawned loader worker, open it again."""
        return Store, (self.root,)

    @property
    def num_quarantined(self) -> int:
        """Images that some group could not extract."""
        return len(self._missing)

    @property
    def layers(self) -> tuple[int, ...]:
        """The tapped layers whose states are stored."""
        return tuple(self.manifest.fingerprints["hidden_states"]["layers"])

    def frozen(self) -> FrozenParts:
        """Load what a LENS model needs of the frozen models."""
        return FrozenParts.load(self.root / FROZEN_FOLDER)

    def images(self, split: str | None, limit: int | None = None) -> list[int]:
        """Return the images that have queries in a split and were not quarantined.

        Raises:
            StoreError: If there is none; the message names the splits.
        """
        chosen = [
            image
            for image in self.plan.select(split)
            if self.plan.image(image).image_id not in self._missing
        ]
        if not chosen:
            raise StoreError(
                f"choosing split {split!r} of the store {self.root}: no image; it has "
                + ", ".join(
                    f"{name} ({count} queries)" for name, count in self.plan.splits().items()
                )
            )
        return chosen[:limit]

    def read(self, image: int, queries: Sequence[int], layer: int) -> ImageFeatures:
        """Read an image's features and those of some of its queries.

        Args:
            image: Index of the image in the plan.
            queries: Indices of queries in the plan, all of this image.
            layer: A tapped layer.

        Raises:
            CorruptShardError: If a shard is damaged or an object is missing.
        """
        states = self.manifest.arrays["hidden_states"]
        embeddings = self.manifest.arrays["image_embeddings"]["image_embeddings"]
        prefix = states[f"layer_{layer}/prefix"]
        text = states[f"layer_{layer}/text_tokens"]
        return ImageFeatures(
            prefix=self._rows(prefix, 0, prefix.shape[0]),
            image_tokens=self._chunk(states[f"layer_{layer}/image_tokens"], image),
            text_tokens=[
                self._rows(text, int(self.questions.offsets[q]), len(self.questions.token_ids[q]))
                for q in queries
            ],
            image_embedding=self._chunk(embeddings, image),
        )

    def _chunk(self, spec: ArraySpec, index: int) -> Tensor:
        """Read one image's chunk, without the leading axis of length one."""
        return _tensor([self._bytes(spec, index)], spec).reshape(spec.chunk[1:])

    def _rows(self, spec: ArraySpec, start: int, length: int) -> Tensor:
        """Read consecutive rows of a flat array, across chunks where need be; (length, d)."""
        per_chunk = spec.chunk[0]
        row_bytes = spec.chunk_bytes // per_chunk
        parts = []
        for index in range(start // per_chunk, (start + length - 1) // per_chunk + 1):
            first = max(start - index * per_chunk, 0)
            last = min(start + length - index * per_chunk, per_chunk)
            parts.append(self._bytes(spec, index)[first * row_bytes : last * row_bytes])
        return _tensor(parts, spec).reshape(length, spec.shape[1])

    def _bytes(self, spec: ArraySpec, index: int) -> NDArray[np.uint8]:
        """Return a view of the bytes of a chunk, given by its number along the first axis."""
        shard, within = divmod(index, spec.chunks_per_shard)
        data = self._shard(spec, shard).chunk(within)
        if data is None or len(data) != spec.chunk_bytes:
            raise CorruptShardError(
                f"reading chunk {index} of {spec.path} in {self.root}: expected "
                f"{spec.chunk_bytes} bytes, found {0 if data is None else len(data)}; run "
                "`lens-cache verify STORE --repair`"
            )
        return data

    def _open_shard(self, spec: ArraySpec, shard: int) -> ShardReader:
        return ShardReader(self.root / spec.object_path(shard), num_chunks=spec.chunks_per_shard)


def _tensor(parts: Sequence[NDArray[np.uint8]], spec: ArraySpec) -> Tensor:
    """Copy bytes out of the memory map into a flat tensor of the array's precision."""
    return torch.from_numpy(np.concatenate(parts)).view(getattr(torch, spec.dtype))


def missing_shards(root: Path, num_shards: int) -> dict[str, list[int]]:
    """Return per group the shards that have no commit record."""
    return {
        group: sorted(set(range(num_shards)) - committed_shards(root, group)) for group in GROUPS
    }


def shard_images(num_images: int, shard_size: int) -> list[range]:
    """Return the image indices of every shard."""
    return [
        range(start, min(start + shard_size, num_images))
        for start in range(0, num_images, shard_size)
    ]
