"""Open a store and read the features of its images."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from multiprocessing.context import BaseContext
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
from lens_cache.store.remote import is_remote, plain_errors
from lens_cache.store.shard_file import ShardReader, open_shard
from lens_cache.types import ImageFeatures

PLAN_FOLDER = "plan"
FROZEN_FOLDER = "frozen"
_OPEN_SHARDS = 4096  # what stays of each is a memory map, or an index of a few kilobytes
_REQUESTS = 16  # that a process has under way at a time, behind a URL


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
        with plain_errors(root, "opening the store"):
            self._open()

    def _open(self) -> None:
        root = self.root
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
        self._prefix = lru_cache(maxsize=None)(self._read_prefix)
        self._threads = ThreadPoolExecutor(_REQUESTS) if is_remote(root) else None

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        """Let a process that does not fork, such as a spawned loader worker, open it again."""
        return Store, (self.root,)

    @property
    def worker_context(self) -> BaseContext | None:
        """How processes that read this store are to be started; nothing if it does not matter.

        Connections do not survive a fork: behind a URL each process opens the store anew.
        """
        if self._threads is None:
            return None
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # imported once, not by every worker
        return context

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
        text = states[f"layer_{layer}/text_tokens"]
        offsets, token_ids = self.questions.offsets, self.questions.token_ids
        prefix, image_tokens, image_embedding, *text_tokens = self._together(
            partial(self._prefix, layer),
            partial(self._chunk, states[f"layer_{layer}/image_tokens"], image),
            partial(self._chunk, embeddings, image),
            *(partial(self._rows, text, int(offsets[q]), len(token_ids[q])) for q in queries),
        )
        return ImageFeatures(
            prefix=prefix,
            image_tokens=image_tokens,
            text_tokens=text_tokens,
            image_embedding=image_embedding,
        )

    def _together(self, *reads: Callable[[], Tensor]) -> list[Tensor]:
        """Read several things: behind a URL at the same time, since each waits for an answer."""
        if self._threads is None:
            return [read() for read in reads]
        return [future.result() for future in [self._threads.submit(read) for read in reads]]

    def _read_prefix(self, layer: int) -> Tensor:
        """Read the states of the system prefix, the same for every image; (P, d)."""
        spec = self.manifest.arrays["hidden_states"][f"layer_{layer}/prefix"]
        return self._rows(spec, 0, spec.shape[0])

    def _chunk(self, spec: ArraySpec, index: int) -> Tensor:
        """Read one image's chunk, without the leading axis of length one."""
        everything = slice(0, spec.chunk_bytes)
        return _tensor([self._bytes(spec, index, everything)], spec).reshape(spec.chunk[1:])

    def _rows(self, spec: ArraySpec, start: int, length: int) -> Tensor:
        """Read consecutive rows of a flat array, across chunks where need be; (length, d)."""
        parts = [
            self._bytes(spec, number, where) for number, where in spec.row_slices(start, length)
        ]
        return _tensor(parts, spec).reshape(length, spec.shape[1])

    def _bytes(self, spec: ArraySpec, index: int, where: slice) -> NDArray[np.uint8]:
        """Return bytes of a chunk, given by its number along the first axis."""
        shard, within = divmod(index, spec.chunks_per_shard)
        data = self._shard(spec, shard).chunk(within, where)
        expected = where.stop - where.start
        if data is None or len(data) != expected:
            raise CorruptShardError(
                f"reading chunk {index} of {spec.path} in {self.root}: expected {expected} bytes, "
                f"found {0 if data is None else len(data)}; run `lens-cache verify STORE --repair`"
            )
        return data

    def _open_shard(self, spec: ArraySpec, shard: int) -> ShardReader:
        return open_shard(self.root / spec.object_path(shard), num_chunks=spec.chunks_per_shard)


def _tensor(parts: Sequence[NDArray[np.uint8]], spec: ArraySpec) -> Tensor:
    """Copy bytes into a flat tensor of the array's precision."""
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
