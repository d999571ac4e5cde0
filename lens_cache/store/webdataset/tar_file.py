"""One tar of a store: written as a stream, read by memory map or as a stream, never unpacked.

Equal members make equal bytes: a header has a name and a size, but no time, user or machine. The
readers accept only what the writer makes: regular files in the ustar format under plain relative
names. A link, a device, a name that leads out of the archive or data after its end is an error.

``webdataset.TarWriter`` writes the same bytes if it is given no time and no user, member by member.
It is not used: pending file, checksum and end of the archive would stay here, the parts of a member
would have to be joined first, and it writes at half the speed (540 against 980 to 1,730 MB per
second of CPU time for records of 7.5 MB), since it passes through a ``tarfile`` stream. Its reader
is not used either, see ``pipeline``.
"""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import CorruptShardError, StoreError
from lens_cache.store.io.files import crc32c, map_copy, map_file
from lens_cache.store.io.remote import is_remote
from lens_cache.store.io.uploads import pending_file

_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 18  # bytes read and checksummed at a time, while they are in the processor's cache
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


class TarWriter:
    """Append members to a tar, then ``publish`` it.

    Leaving the ``with`` block without ``publish`` removes the unfinished file.
    """

    def __init__(self, root: Path, final: Path) -> None:
        self.final = final
        self.size = 0
        self.crc = 0
        self._file = pending_file(root, final)

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.discard()

    def add(self, name: str, *parts: bytes) -> None:
        """Append a member with the concatenated parts as its content."""
        header = tarfile.TarInfo(name)
        header.size = sum(len(part) for part in parts)
        self._append(header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
        for part in parts:
            self._append(part)
        self._append(bytes(-header.size % _BLOCK))

    def publish(self) -> None:
        """Write the end of the archive and move the tar to its final path."""
        self._append(bytes(2 * _BLOCK))
        self._append(bytes(-self.size % tarfile.RECORDSIZE))
        self._file.publish()

    def _append(self, data: bytes) -> None:
        self._file.write(data)
        self.crc = crc32c(data, self.crc)
        self.size += len(data)


class TarReader:
    """Random access to the members of a tar; its headers are read once, on opening."""

    def __init__(self, path: Path, *, fetch: bool = False) -> None:
        """Open a tar.

        Args:
            path: The tar.
            fetch: Whether to copy it to a local temporary file if it is behind a URL.

        Raises:
            CorruptShardError: If it is missing or truncated, or contains other than regular files.
            StoreError: If it is at a URL and is not to be fetched: finding the members there would
                take a request for each.
        """
        if is_remote(path) and not fetch:
            raise StoreError(
                f"reading {path} at random: tars at a URL are read in order only; train "
                "with --set batch.order=stream, or convert the store to zarr"
            )
        self.path = path
        self._bytes = map_copy(path) if is_remote(path) else map_file(path)
        self._members: dict[str, tuple[int, int]] = {}
        at = 0
        while (header := _parse(path, at, self._bytes[at : at + _BLOCK].tobytes())) is not None:
            begin, end = at + _BLOCK, at + _BLOCK + header.size
            if header.name in self._members:
                raise self._broken(f"it contains {header.name} twice")
            if end > len(self._bytes):
                raise self._broken(
                    f"{header.name} ends at byte {end}, the file at {len(self._bytes)}"
                )
            self._members[header.name] = (begin, end)
            at = end + -end % _BLOCK
        if len(self._bytes) - at < 2 * _BLOCK or self._bytes[at:].any():
            raise self._broken("expected the end of the archive after its last member")

    def __contains__(self, name: str) -> bool:
        """Whether there is such a member."""
        return name in self._members

    def names(self) -> list[str]:
        """Return the members in order."""
        return list(self._members)

    def member(self, name: str) -> NDArray[np.uint8]:
        """Return a read-only view of the bytes of a member; raises KeyError if it is missing."""
        begin, end = self._members[name]
        return self._bytes[begin:end]

    def _broken(self, what: str) -> CorruptShardError:
        return _broken(self.path, what)


class TarStream:
    """The members of a tar in order, each read or skipped."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        """Read from an open file; ``path`` is for messages."""
        self.path, self._file = path, file
        self._at = 0
        self._next = 0

    def next(self) -> tuple[str, int] | None:
        """Return name and size of the next member; None at the end of the archive.

        Raises:
            CorruptShardError: If the tar is truncated, or contains anything but regular files.
        """
        if self._next != self._at:
            self._file.seek(self._next - self._at, os.SEEK_CUR)
        self._at = self._next
        header = _parse(self.path, self._at, self.take(_BLOCK))
        if header is None:
            return None
        self._next = self._at + header.size + -header.size % _BLOCK
        return header.name, header.size

    def take(self, size: int) -> bytes:
        """Return the next bytes; raises as ``read`` does."""
        found = np.empty(size, np.uint8)
        self.read(found)
        return found.tobytes()

    def read(self, memory: NDArray[np.uint8]) -> int:
        """Fill memory with the next bytes and return their CRC-32C.

        Raises:
            CorruptShardError: If the tar is truncated.
        """
        crc = 0
        for start in range(0, len(memory), _PIECE):
            piece = memory[start : start + _PIECE]
            self._fill(piece)
            crc = crc32c(piece, crc)
        self._at += len(memory)
        return crc

    def _fill(self, memory: NDArray[np.uint8]) -> None:
        left = memory.data
        while left:
            count = self._file.readinto(left)  # type: ignore[attr-defined]
            if not count:
                raise _broken(self.path, "it is truncated")
            left = left[count:]


def _parse(path: Path, at: int, block: bytes) -> tarfile.TarInfo | None:
    """Parse the header of a regular file; returns None at the end of an archive."""
    if len(block) == _BLOCK and not any(block):
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        raise _broken(path, f"at byte {at} there is no header ({error})") from None
    name = header.name
    if header.type != tarfile.REGTYPE:
        raise _broken(path, f"expected plain files, found {name!r} of type {header.type!r}")
    if not _PLAIN_NAME.fullmatch(name) or ".." in PurePosixPath(name).parts:
        raise _broken(path, f"expected plain relative names, found {name!r}")
    return header


def _broken(path: Path, what: str) -> CorruptShardError:
    return CorruptShardError(
        f"reading the tar {path}: {what}; run `lens-cache verify STORE --repair`"
    )
