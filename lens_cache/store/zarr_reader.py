"""Random access to the shards of a Zarr store, by memory map."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import CorruptShardError
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.features import FeatureReader
from lens_cache.store.layout import ArraySpec
from lens_cache.store.shard_file import ShardReader

_OPEN_SHARDS = 256


class ZarrReader(FeatureReader):
    """Reads chunks straight from the shard objects; they lie uncompressed at known offsets."""

    def __init__(self, root: Path, catalogue: Catalogue) -> None:
        super().__init__(root, catalogue)
        self._shard = lru_cache(maxsize=_OPEN_SHARDS)(self._open_shard)

    def prefix(self, name: str) -> NDArray[np.uint8]:
        """Return the one chunk of a prefix."""
        return np.array(self._bytes(self.spec(name), 0))

    def chunk(self, name: str, image: int) -> NDArray[np.uint8]:
        """Return an image's chunk."""
        return np.array(self._bytes(self.spec(name), image))

    def rows(self, name: str, image: int, start: int, length: int) -> NDArray[np.uint8]:
        """Return text rows of an image, across chunks where need be."""
        spec, first = self.spec(name), self.catalogue.first_row(image) + start
        parts = [
            self._bytes(spec, number)[where] for number, where in spec.row_slices(first, length)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.uint8)

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
