"""The interface of both formats for reading: the bytes of an image's part of an array."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.errors import StoreError
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.layout import GROUPS, ArraySpec
from lens_cache.store.manifest import Manifest
from lens_cache.store.values import to_tensor

_ALIGNMENT = 64  # bytes


class FeatureReader(ABC):
    """Random access to the features of a store.

    Arrays are named as in the manifest. ``chunk_view`` and ``row_views`` return views; all other
    methods return copies. Every method that reads raises a ``CorruptShardError`` that names the
    file if it is missing or damaged, or does not contain the image.
    """

    def __init__(self, root: Path, catalogue: Catalogue) -> None:
        self.root, self.catalogue = root, catalogue

    def require_unchanged(self) -> None:
        """Check that the store is the one that was opened; call it after opening a shard's file.

        Mapped files stay as they were, so a store that is replaced meanwhile would give features of
        two models.

        Raises:
            StoreError: If a group has been replaced.
        """
        mine, found = self.catalogue.manifest, Manifest.load(self.root)
        for group in GROUPS:
            if found.content_digest(group) != mine.content_digest(group):
                raise StoreError(
                    f"reading the store {self.root}: {group} was replaced after the store was "
                    "opened; open it again"
                )

    def spec(self, name: str) -> ArraySpec:
        """Return the spec of an array."""
        return self.catalogue.manifest.specs[name]

    def part(self, name: str, image: int) -> NDArray[np.uint8]:
        """Return an image's part of an array: its chunk, or the rows of its queries."""
        if self.spec(name).per_image:
            return self.chunk(name, image)
        return together([self.row_views(name, image, range(self.catalogue.text_rows(image)))])[0]

    def tensor(self, name: str, values: NDArray[np.uint8]) -> Tensor:
        """Return bytes of an array as values: an image's part, or (rows, d)."""
        return to_tensor(values, self.spec(name))

    def chunk(self, name: str, image: int) -> NDArray[np.uint8]:
        """Return an image's chunk of an array over images."""
        return np.array(self.chunk_view(name, image))

    @abstractmethod
    def prefix(self, name: str) -> NDArray[np.uint8]:
        """Return the whole of an array that a store has once."""

    @abstractmethod
    def chunk_view(self, name: str, image: int) -> NDArray[np.uint8]:
        """Return a read-only view of an image's chunk of an array over images."""

    @abstractmethod
    def row_views(self, name: str, image: int, rows: range) -> list[NDArray[np.uint8]]:
        """Return read-only views of text rows, counted from the image's first row."""


def reserve(sizes: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Allocate buffers of the given sizes in bytes, in one allocation.

    One large allocation is cheaper than several small ones: NumPy requests huge pages for it, and
    mapping fresh pages dominates the time of reading megabytes.
    """
    starts = list(accumulate((size + -size % _ALIGNMENT for size in sizes), initial=0))
    memory = np.empty(starts[-1], np.uint8)
    return [memory[start : start + size] for start, size in zip(starts, sizes, strict=False)]


def together(pieces: Sequence[Sequence[NDArray[np.uint8]]]) -> list[NDArray[np.uint8]]:
    """Copy bytes into new memory; the views of each piece are concatenated."""
    found = reserve([sum(map(len, views)) for views in pieces])
    for memory, views in zip(found, pieces, strict=True):
        at = 0
        for view in views:
            memory[at : at + len(view)] = view
            at += len(view)
    return found
