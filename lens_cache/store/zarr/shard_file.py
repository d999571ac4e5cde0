"""One shard object of a Zarr v3 array, written as a stream; read by memory map or range requests.

With the sharding codec, no compression and the index at the end, a shard is the concatenation of
its chunks, then an (offset, length) pair of little-endian uint64 per chunk, then the CRC-32C of
those pairs; an absent chunk has both set to 2^64 - 1. Zarr writes a shard only as a whole from
memory (1.2 GB at full size); this writer needs one chunk at a time and computes every checksum as
it writes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import CorruptShardError
from lens_cache.store.io.files import crc32c
from lens_cache.store.io.remote import is_remote, plain_errors, read_range
from lens_cache.store.io.uploads import pending_file

_ABSENT = 2**64 - 1


class ShardWriter:
    """Append chunks of equal size to a shard, then ``publish`` it.

    Leaving the ``with`` block without ``publish`` removes the unfinished file.
    """

    def __init__(self, root: Path, final: Path, *, num_chunks: int) -> None:
        self.final = final
        self.size = 0
        self.crc = 0
        self._index = np.full((num_chunks, 2), _ABSENT, dtype="<u8")
        self._file = pending_file(root, final)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.discard()

    def write(self, chunk: int, data: bytes) -> int:
        """Append the bytes of one chunk; returns their CRC-32C."""
        self._index[chunk] = self.size, len(data)
        self._append(data)
        return crc32c(data)

    def publish(self) -> None:
        """Write the index and move the shard to its final path."""
        index = self._index.tobytes()
        self._append(index + struct.pack("<I", crc32c(index)))
        self._file.publish()

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self.crc = crc32c(data, self.crc)
        self.size += len(data)


class ShardReader(Protocol):
    """Random access to the chunks of one shard."""

    def chunk(self, number: int, where: slice = slice(None)) -> NDArray[np.uint8] | None:
        """Return the bytes of a chunk, or some of them, read-only; None if it is absent."""


def open_shard(path: Path, *, num_chunks: int) -> ShardReader:
    """Open a shard on a disk or at a URL and read its index.

    Raises:
        CorruptShardError: If it is missing, or its index is damaged.
    """
    return (RemoteShardReader if is_remote(path) else LocalShardReader)(path, num_chunks=num_chunks)


class LocalShardReader:
    """A shard read by memory map, without copies."""

    def __init__(self, path: Path, *, num_chunks: int) -> None:
        try:
            # As a plain array: slicing a memmap creates memmaps, which takes ten times as long.
            self._bytes = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        except (OSError, ValueError) as error:
            raise CorruptShardError(f"reading the shard {path}: {error}") from None
        self._index = _parse_index(
            path, self._bytes[-_index_size(num_chunks) :].tobytes(), num_chunks
        )

    def chunk(self, number: int, where: slice = slice(None)) -> NDArray[np.uint8] | None:
        """Return the bytes of a chunk, or some of them, read-only; None if it is absent."""
        offset, length = self._index[number]
        if offset == _ABSENT:
            return None
        return self._bytes[offset : offset + length][where]


class RemoteShardReader:
    """A shard at a URL, read by one request for the index and one for each read."""

    def __init__(self, path: Path, *, num_chunks: int) -> None:
        self._path = path
        with plain_errors(path, "reading the shard"):
            try:
                tail = read_range(path, -_index_size(num_chunks))
            except FileNotFoundError:
                raise CorruptShardError(
                    f"reading the shard {path}: no such object; run `lens-cache verify STORE "
                    "--repair`"
                ) from None
        self._index = _parse_index(path, tail, num_chunks)

    def chunk(self, number: int, where: slice = slice(None)) -> NDArray[np.uint8] | None:
        """Return the bytes of a chunk, or some of them, read-only; None if it is absent."""
        offset, length = self._index[number]
        if offset == _ABSENT:
            return None
        start, stop, _ = where.indices(length)
        with plain_errors(self._path, "reading the shard"):
            data = read_range(self._path, offset + start, offset + stop)
        return np.frombuffer(data, dtype=np.uint8)


def _index_size(num_chunks: int) -> int:
    return num_chunks * 16 + 4


def _parse_index(path: Path, tail: bytes, num_chunks: int) -> list[tuple[int, int]]:
    """Check the index at the end of a shard and return (offset, length) per chunk."""
    size = num_chunks * 16
    if len(tail) != size + 4 or struct.unpack("<I", tail[size:])[0] != crc32c(tail[:size]):
        raise CorruptShardError(
            f"reading the shard {path}: its index does not match its checksum; run "
            "`lens-cache verify STORE --repair`"
        )
    return list(struct.iter_unpack("<QQ", tail[:size]))
