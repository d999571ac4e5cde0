"""Random access to the samples of a WebDataset store, by memory map."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import CorruptShardError
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.feature_reader import FeatureReader
from lens_cache.store.io.files import map_file
from lens_cache.store.webdataset.samples import (
    INCOMPLETE,
    npy_values,
    prefix_path,
    shape_of,
    suffix,
    tar_path,
)
from lens_cache.store.webdataset.tar_file import TarReader

_OPEN_TARS = 256
_FETCHED_TARS = 8  # each may take a gigabyte of disk


class SampleReader(FeatureReader):
    """Reads members directly from the tars, where they are uncompressed."""

    def __init__(self, root: Path, catalogue: Catalogue, *, fetch: bool = False) -> None:
        """Take a store.

        Args:
            root: The store.
            catalogue: Its tables.
            fetch: Whether to copy tars behind a URL to local temporary files; without it they
                cannot be read at random.
        """
        super().__init__(root, catalogue)
        self._fetch = fetch
        self._tar = lru_cache(maxsize=_FETCHED_TARS if fetch else _OPEN_TARS)(self._open_tar)

    def prefix(self, name: str) -> NDArray[np.uint8]:
        """Return the values of a prefix."""
        spec = self.spec(name)
        path = self.root / prefix_path(spec)
        values = npy_values(map_file(path), spec.shape, spec)
        if values is None:
            raise self._broken(str(path), "is not the array in the manifest")
        return np.array(values)

    def row_views(self, name: str, image: int, rows: range) -> list[NDArray[np.uint8]]:
        """Return text rows of an image."""
        row = self.spec(name).row_bytes
        return [self.chunk_view(name, image)[rows.start * row : rows.stop * row]]

    def chunk_view(self, name: str, image: int) -> NDArray[np.uint8]:
        """Return an image's part of an array."""
        shard = image // self.catalogue.shard_size
        tar, spec = self._tar(shard), self.spec(name)
        image_id = self.catalogue.image_id(image)
        member = f"{image_id}.{suffix(name)}"
        place = next((name for name in (member, INCOMPLETE + member) if name in tar), None)
        if place is None:
            raise self._broken(str(tar.path), f"has no {member}")
        shape = shape_of(spec, self.catalogue.text_rows(image))
        values = npy_values(tar.member(place), shape, spec)
        if values is None:
            raise self._broken(f"{tar.path}: {member}", "is not the array in the manifest")
        return values

    def _open_tar(self, shard: int) -> TarReader:
        tar = TarReader(self.root / tar_path(shard), fetch=self._fetch)
        self.require_unchanged()
        return tar

    def _broken(self, where: str, what: str) -> CorruptShardError:
        return CorruptShardError(
            f"reading {where}: it {what}; run `lens-cache verify STORE --repair`"
        )
