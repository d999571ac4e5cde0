"""What every format of a store can do: give the bytes of an image's part of an array."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.store.catalogue import Catalogue
from lens_cache.store.layout import ArraySpec
from lens_cache.store.values import to_tensor


class FeatureReader(ABC):
    """Random access to the features of a store.

    Arrays are named as in the manifest. Bytes that are returned are a copy, the caller's to keep.
    Every method that reads raises a ``CorruptShardError`` that names the file if it is missing,
    damaged, or does not hold the image.
    """

    def __init__(self, root: Path, catalogue: Catalogue) -> None:
        self.root, self.catalogue = root, catalogue
        groups = catalogue.manifest.arrays.values()
        self._specs = {name: spec for group in groups for name, spec in group.items()}

    def spec(self, name: str) -> ArraySpec:
        """Return what an array is."""
        return self._specs[name]

    def part(self, name: str, image: int) -> NDArray[np.uint8]:
        """Return everything an array holds of an image: its chunk, or the rows of its queries."""
        if self.spec(name).per_image:
            return self.chunk(name, image)
        return self.rows(name, image, 0, self.catalogue.text_rows(image))

    def tensor(self, name: str, values: NDArray[np.uint8]) -> Tensor:
        """Return bytes of an array as values: an image's part, or (rows, d)."""
        return to_tensor(values, self.spec(name))

    def image_tensor(self, name: str, image: int) -> Tensor:
        """Return an image's chunk of an array over images as values."""
        return self.tensor(name, self.chunk(name, image))

    def row_tensor(self, name: str, image: int, rows: range) -> Tensor:
        """Return text rows of an image, counted from the first of its rows, as values."""
        return self.tensor(name, self.rows(name, image, rows.start, len(rows)))

    @abstractmethod
    def prefix(self, name: str) -> NDArray[np.uint8]:
        """Return the whole of an array that stands once in a store."""

    @abstractmethod
    def chunk(self, name: str, image: int) -> NDArray[np.uint8]:
        """Return an image's chunk of an array over images."""

    @abstractmethod
    def rows(self, name: str, image: int, start: int, length: int) -> NDArray[np.uint8]:
        """Return text rows of an image, counted from the first of its rows."""
