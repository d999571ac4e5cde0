"""One shard object of a Zarr v3 array, written as a stream and read by memory map.

With the sharding codec, no compression and the index at the end, a shard is its chunks one after
another, then an (offset, length) pair of little-endian uint64 per chunk, then the CRC-32C of those
pairs; an absent chunk has both set to 2^64 - 1. Zarr writes a shard only as a whole from memory
(1.2 GB at full size); this writer needs one chunk at a time, and knows every checksum when it ends.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import CorruptShardError
from lens_cache.store.files import crc32c, publish, temporary_path

_ABSENT = 2**64 - 1


class ShardWriter:
    """Append chunks of equal size to a shard, then ``publish`` it.

    Leaving the ``with`` block without ``publish`` removes the temporary file.
    """

    def __init__(self, root: Path, final: Path, *, num_chunks: int) -> None:
        self.final = final
        self.size = 0
        self.crc = 0
        self._index = np.full((num_chunks, 2), _ABSENT, dtype="<u8")
        self._temporary = temporary_path(root)
        self._file = self._temporary.open("wb")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()  # on a full disk, flushing what is buffered fails once more
        finally:
            self._temporary.unlink(missing_ok=True)

    def write(self, chunk: int, data: bytes) -> int:
        """Append the bytes of one chunk; returns their CRC-32C."""
        self._index[chunk] = self.size, len(data)
        self._append(data)
        return crc32c(data)

    def publish(self) -> None:
        """Write the index, flush to the disk and move the shard to its place."""
        index = self._index.tobytes()
        self._append(index + struct.pack("<I", crc32c(index)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        publish(self._temporary, self.final)

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self.crc = crc32c(data, self.crc)
        self.size += len(data)


class ShardReader:
    """Random access to the chunks of one shard through a memory map."""

    def __init__(self, path: Path, *, num_chunks: int) -> None:
        self.path = path
        try:
            self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise CorruptShardError(f"reading the shard {path}: {error}") from None
        size = num_chunks * 16
        tail = self._bytes[-(size + 4) :].tobytes()
        if len(tail) != size + 4 or struct.unpack("<I", tail[size:])[0] != crc32c(tail[:size]):
            raise CorruptShardError(
                f"reading the shard {path}: its index does not match its checksum; run "
                "`lens-cache verify STORE --repair`"
            )
        self._index = np.frombuffer(tail[:size], dtype="<u8").reshape(num_chunks, 2)

    def chunk(self, number: int) -> NDArray[np.uint8] | None:
        """Return a read-only view of a chunk's bytes, or nothing if the chunk is absent."""
        offset, length = (int(value) for value in self._index[number])
        if offset == _ABSENT:
            return None
        return self._bytes[offset : offset + length]
