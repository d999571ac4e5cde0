"""Open a store and read the features of its images."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import chain
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.errors import StoreError
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.types import ImageFeatures
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.commits import Commit, committed_shards
from lens_cache.store.feature_reader import together
from lens_cache.store.formats import open_features, prefix_object
from lens_cache.store.io.remote import is_remote, plain_errors, store_path
from lens_cache.store.layout import GROUPS, IMAGE_EMBEDDINGS, array_name
from lens_cache.store.manifest import Manifest
from lens_cache.store.paths import FROZEN_FOLDER
from lens_cache.store.quarantine import quarantined
from lens_cache.store.records import Record
from lens_cache.store.shared import SharedFiles

Views = list[NDArray[np.uint8]]
_REQUESTS = 16  # in parallel per process, behind a URL


class Store:
    """A feature cache, opened for reading: a complete store, or the committed part of another.

    Attributes:
        root: The store's folder.
        shards: The shards to read; None for all.
        manifest: What the store contains.
        plan: Its images and queries.
        questions: The text tokens of its queries.
        catalogue: These three together.
        features: The bytes of its arrays.
        prefix: Function of a layer; returns its states of the system prefix, (P, d), read once.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        incomplete: bool = False,
        shards: frozenset[int] | None = None,
    ) -> None:
        """Open a store.

        Args:
            root: Its folder or URL.
            incomplete: Whether to open a store that is not complete: only the shards that every
                group has committed are used.
            shards: Use only these shards; all must be committed.

        Raises:
            StoreError: If it is missing, or not complete without ``incomplete``, or its first shard
                is not committed.
        """
        self.root, self.shards = store_path(root), shards
        with plain_errors(self.root, "opening the store"):
            self._open(incomplete)

    def _open(self, incomplete: bool) -> None:
        root = self.root
        self.manifest = Manifest.load(root)
        if self.shards is None and not self.manifest.complete:
            if not incomplete:
                raise StoreError(
                    f"opening the store {root}: its extraction has not finished; run the same "
                    "`lens-cache extract` (or `convert`) again to resume; to "
                    "train on the committed shards, set batch.incomplete_store=use"
                )
            self.shards = _usable_shards(root)
        self._shared = SharedFiles.load(root)
        self.catalogue = Catalogue.load(self.manifest, self._shared)
        self.plan, self.questions = self.catalogue.plan, self.catalogue.questions
        self.features = open_features(root, self.catalogue)
        self._missing = {image_id for group in GROUPS for image_id in quarantined(root, group)}
        self.prefix = lru_cache(maxsize=None)(self._read_prefix)
        self._threads = ThreadPoolExecutor(_REQUESTS) if is_remote(root) else None

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Path, frozenset[int] | None]]:
        """Pickle as the arguments of the constructor, for loader workers that are not forked."""
        return _open_again, (self.root, self.shards)

    @property
    def worker_context(self) -> BaseContext | None:
        """The start method for processes that read this store; None if any will do.

        Connections do not survive a fork: behind a URL each process opens the store itself.
        """
        if self._threads is None:
            return None
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # imported once, not by every worker
        return context

    @property
    def num_quarantined(self) -> int:
        """Number of images that some group could not extract."""
        return len(self._missing)

    @property
    def layers(self) -> tuple[int, ...]:
        """The tapped layers whose states are stored."""
        return self.manifest.layers

    def frozen(self) -> FrozenParts:
        """Load the frozen parts that a LENS model needs."""
        return FrozenParts.load(self.root / FROZEN_FOLDER, self._shared.read)

    def images(self, split: str | None, limit: int | None = None) -> list[int]:
        """Return the images of the usable shards that have queries in a split.

        Quarantined images are skipped.

        Args:
            split: Name of a split; None for all queries.
            limit: Return at most this many.

        Raises:
            StoreError: If there is none; the message names the splits.
        """
        chosen = self._readable(split)
        if not chosen:
            raise StoreError(
                f"choosing split {split!r} of the store {self.root}: no image; it has "
                + ", ".join(
                    f"{name} ({count} queries)" for name, count in self.plan.splits().items()
                )
            )
        return chosen[:limit]

    def _readable(self, split: str | None) -> list[int]:
        return [
            image
            for image in self.plan.select(split)
            if (self.shards is None or image // self.catalogue.shard_size in self.shards)
            and self.plan.image(image).image_id not in self._missing
        ]

    def __len__(self) -> int:
        """Return the number of images that can be read."""
        return len(self._readable(None))

    def __iter__(self) -> Iterator[Record]:
        """Iterate over ``records()``; of several cached layers the first."""
        return self.records()

    def records(self, split: str | None = None, *, layer: int | None = None) -> Iterator[Record]:
        """Iterate over the images of a split with their queries and features, in plan order.

        Args:
            split: Only images with a query in this split, and only those queries; all if None.
            layer: A cached layer; the first one if None.

        Raises:
            StoreError: If the split has no image, or the store does not hold the layer.
            CorruptShardError: If a shard is damaged or an object is missing.
        """
        chosen = self.layers[0] if layer is None else layer
        if chosen not in self.layers:
            raise StoreError(
                f"reading the store {self.root}: expected one of the layers {list(self.layers)}, "
                f"found {layer}"
            )
        return self._records(self.images(split), split, chosen)

    def _records(self, images: list[int], split: str | None, layer: int) -> Iterator[Record]:
        included = self.plan.in_split(split)
        for image in images:
            queries = [query for query in self.plan.query_range(image) if included[query]]
            yield Record(
                image=self.plan.image(image),
                queries=tuple(self.plan.query(query) for query in queries),
                features=self.read(image, queries, layer),
            )

    @property
    def is_remote(self) -> bool:
        """Whether the store is behind a URL."""
        return is_remote(self.root)

    def read(self, image: int, queries: Sequence[int], layer: int) -> ImageFeatures:
        """Read an image's features and those of some of its queries.

        Args:
            image: Index of the image in the plan.
            queries: Indices of queries in the plan, all of this image.
            layer: A tapped layer.

        Raises:
            CorruptShardError: If a shard is damaged or an object is missing.
        """
        features = self.features
        tokens, text = array_name(layer, "image_tokens"), array_name(layer, "text_tokens")
        rows = [self.catalogue.rows_of(query) for query in queries]
        token_views, embedding_views, *text_views = self._fetch(
            lambda: [features.chunk_view(tokens, image)],
            lambda: [features.chunk_view(IMAGE_EMBEDDINGS, image)],
            *(partial(features.row_views, text, image, run) for run in _runs(rows)),
        )
        image_tokens, image_embedding, text_tokens = map(
            features.tensor,
            (tokens, IMAGE_EMBEDDINGS, text),
            together([token_views, embedding_views, list(chain(*text_views))]),
        )
        return ImageFeatures(
            prefix=self.prefix(layer),
            image_tokens=image_tokens,
            text_tokens=torch.split(text_tokens, [len(mine) for mine in rows]),
            image_embedding=image_embedding,
        )

    def _fetch(self, *reads: Callable[[], Views]) -> list[Views]:
        """Make several reads; behind a URL in parallel, since each waits for an answer."""
        if self._threads is None:
            return [read() for read in reads]
        return [future.result() for future in [self._threads.submit(read) for read in reads]]

    def _read_prefix(self, layer: int) -> Tensor:
        """Read and check the states of the system prefix, the same for every image; (P, d)."""
        name = array_name(layer, "prefix")
        content = self.manifest.content_digest("hidden_states")
        commit = Commit.load(self.root, "hidden_states", 0, content)
        commit.require(self.root, prefix_object(self.manifest, name))
        return self.features.tensor(name, self.features.prefix(name))


def _runs(rows: Sequence[range]) -> list[range]:
    """Merge consecutive ranges into one."""
    runs: list[range] = []
    for mine in rows:
        if runs and runs[-1].stop == mine.start:
            runs[-1] = range(runs[-1].start, mine.stop)
        else:
            runs.append(mine)
    return runs


def _open_again(root: Path, shards: frozenset[int] | None) -> Store:
    return Store(root, shards=shards)


def _usable_shards(root: Path) -> frozenset[int]:
    """Return the shards that every group has committed, of a store that is not complete."""
    committed = frozenset.intersection(*(frozenset(committed_shards(root, g)) for g in GROUPS))
    if 0 not in committed:
        raise StoreError(
            f"opening the store {root}: its extraction has not finished, and its first shard, "
            "which has the prefix, is not committed in every group; run the same `lens-cache "
            "extract` again to resume"
        )
    return committed
