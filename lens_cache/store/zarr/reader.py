"""Random access to the shards of a Zarr store, by memory map or range requests.

zarr-python is not used for reading: the bytes of a chunk are uncompressed at a known offset.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import CorruptShardError
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.feature_reader import FeatureReader
from lens_cache.store.layout import ArraySpec
from lens_cache.store.zarr.shard_file import ShardReader, open_shard

_OPEN_SHARDS = 4096  # each keeps a memory map, or an index of a few kilobytes


class ZarrReader(FeatureReader):
    """Reads chunks directly from the shard objects."""

    def __init__(self, root: Path, catalogue: Catalogue) -> None:
        super().__init__(root, catalogue)
        self._shard = lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)
        # Once for all arrays of a shard.
        self._require_unchanged = lru_cache(maxsize=None)(lambda shard: self.require_unchanged())

    def prefix(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of a prefix, an array of one chunk."""
        return self.chunk(name, 0)

    def chunk_view(self, name: str, image: int) -> NDArray[np.uint8]:
        """Return the chunk of an image."""
        spec = self.spec(name)
        return self._bytes(name, spec, image, slice(0, spec.chunk_bytes))

    def row_views(self, name: str, image: int, rows: range) -> list[NDArray[np.uint8]]:
        """Return text rows of an image, one piece for each chunk that contains some."""
        spec, first = self.spec(name), self.catalogue.first_row(image) + rows.start
        return [
            self._bytes(name, spec, number, where)
            for number, where in spec.row_slices(first, len(rows))
        ]

    def _bytes(self, name: str, spec: ArraySpec, index: int, where: slice) -> NDArray[np.uint8]:
        """Return bytes of the chunk with this number along the first axis."""
        shard, within = divmod(index, spec.chunks_per_shard)
        data = self._shard(name, shard).chunk(within, where)
        expected = where.stop - where.start
        if data is None or len(data) != expected:
            raise CorruptShardError(
                f"reading chunk {index} of {spec.path} in {self.root}: expected {expected} bytes, "
                f"found {0 if data is None else len(data)}; run `lens-cache verify STORE --repair`"
            )
        return data

    def _open_shard(self, name: str, shard: int) -> ShardReader:
        spec = self.spec(name)
        opened = open_shard(self.root / spec.object_path(shard), num_chunks=spec.chunks_per_shard)
        self._require_unchanged(shard)
        return opened
