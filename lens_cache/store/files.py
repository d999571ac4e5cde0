"""Files that are there whole or not at all.

Everything is written below ``STORE/tmp``, flushed to the disk and renamed into place; what a killed
process leaves behind lies in that one folder and is swept away by the next run.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import CorruptShardError, StoreError

TEMPORARY = "tmp"
LOCK = ".lock"
_SEAL = "crc32c"


def require_local(root: Path) -> None:
    """Refuse a URL: a store lies on a local or mounted disk, where a rename is atomic.

    Raises:
        StoreError: If ``root`` looks like a URL.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(root)):
        raise StoreError(
            f"opening the store {root}: expected a folder on a local or mounted disk, found a URL; "
            "object stores are not supported yet"
        )


def temporary_path(root: Path) -> Path:
    """Return a new name below ``root/tmp``, creating that folder."""
    folder = root / TEMPORARY
    folder.mkdir(parents=True, exist_ok=True)
    return folder / uuid.uuid4().hex


def publish(temporary: Path, final: Path) -> None:
    """Rename a finished, flushed file or folder into place and make the rename durable."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary.rename(final)
    sync_folder(final.parent)


def publish_folder(temporary: Path, final: Path) -> None:
    """Flush every file of a finished folder and of those in it, then move it into place."""
    for path in temporary.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    publish(temporary, final)


def sync_folder(folder: Path) -> None:
    """Flush a directory entry to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(root: Path, final: Path, data: bytes) -> None:
    """Write one small file atomically."""
    temporary = temporary_path(root)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    publish(temporary, final)


def write_json(root: Path, final: Path, document: dict[str, Any]) -> None:
    """Write a JSON object atomically, sealed with a checksum; equal content is equal bytes."""
    write_bytes(root, final, _sealed(document))


def read_json(path: Path, *, purpose: str) -> dict[str, Any]:
    """Read a JSON object written by ``write_json``; ``purpose`` begins the error.

    Raises:
        StoreError: If the file is missing.
        CorruptShardError: If any byte of it differs from what was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{purpose}: {path}: {error.strerror}") from None
    try:
        document = json.loads(data)
        del document[_SEAL]
    except (ValueError, KeyError, TypeError):
        document = None
    if document is None or _sealed(document) != data:
        raise CorruptShardError(f"{purpose}: {path} does not match its checksum")
    assert isinstance(document, dict)
    return document


def _sealed(document: dict[str, Any]) -> bytes:
    """Return the one byte string that stands for a document, its checksum included."""
    body = json.dumps(document, sort_keys=True).encode()
    return (json.dumps({**document, _SEAL: crc32c(body)}, indent=1, sort_keys=True) + "\n").encode()


def map_file(path: Path) -> NDArray[np.uint8]:
    """Return the bytes of a file as a read-only memory map.

    Raises:
        CorruptShardError: If it is missing or empty.
    """
    try:
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise CorruptShardError(f"reading {path}: {error}") from None


def open_stream(path: Path) -> BinaryIO:
    """Open a file to be read from its beginning to its end.

    Raises:
        CorruptShardError: If it is missing.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise CorruptShardError(f"reading {path}: {error.strerror}") from None


def sweep_temporary(root: Path) -> None:
    """Remove what killed writers left behind."""
    shutil.rmtree(root / TEMPORARY, ignore_errors=True)


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the store for writing; the lock dies with its process.

    Raises:
        StoreError: If the folder cannot be written, or another process holds the lock.
    """
    require_local(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / LOCK).open("w")
    except OSError as error:
        raise StoreError(
            f"opening the store {root} for writing: {error.strerror}; choose a writable folder"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                f"opening the store {root} for writing: another extraction holds it; wait until "
                "it ends"
            ) from None
        except OSError:
            # A network disk without locks: two writers would only do the same work twice, because
            # every file is written under a name of its own and renamed to one with equal content.
            pass
        yield


def crc32c(data: bytes | memoryview, crc: int = 0) -> int:
    """Return the CRC-32C of ``data``, continuing from ``crc``."""
    return int(google_crc32c.extend(crc, bytes(data) if isinstance(data, memoryview) else data))


def crc32c_of_file(path: Path) -> tuple[int, int]:
    """Return a file's CRC-32C and its size in bytes."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = crc32c(block, crc)
            size += len(block)
    return crc, size
