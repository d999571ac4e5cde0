"""Files that are there whole or not at all.

Everything is written below ``STORE/tmp``, flushed to the disk and renamed into place; what a killed
process leaves behind lies in that one folder and is swept away by the next run.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c

from lens_cache.errors import StoreError

TEMPORARY = "tmp"
LOCK = ".lock"


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


def write_json(root: Path, final: Path, document: object) -> None:
    """Write a JSON document atomically, with sorted keys so that equal content is equal bytes."""
    write_bytes(root, final, (json.dumps(document, indent=1, sort_keys=True) + "\n").encode())


def read_json(path: Path, *, purpose: str) -> Any:
    """Read a JSON document; ``purpose`` says in the error what was being done.

    Raises:
        StoreError: If the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{purpose}: {path} is missing") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"{purpose}: {path} is unreadable ({error})") from None


def sweep_temporary(root: Path) -> None:
    """Remove what killed writers left behind."""
    shutil.rmtree(root / TEMPORARY, ignore_errors=True)


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the store for writing; the lock dies with its process.

    Raises:
        StoreError: If the folder cannot be written, or another process holds the lock.
    """
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
        except OSError:
            raise StoreError(
                f"opening the store {root} for writing: another extraction holds it; wait until "
                "it ends"
            ) from None
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
