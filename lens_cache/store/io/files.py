"""Files that appear complete or not at all.

On a disk everything is written in ``STORE/tmp``, flushed and renamed into place; files that a
killed process leaves in that folder are removed by the next run. Behind a URL an object is uploaded
and appears when it is complete.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import CorruptShardError, StoreError, one_line
from lens_cache.store.io import remote
from lens_cache.store.io.remote import is_remote

TEMPORARY = "tmp"
_SEAL = "crc32c"


def temporary_path(root: Path) -> Path:
    """Return a new path in ``root/tmp``, creating that folder."""
    folder = root / TEMPORARY
    make_folder(folder)
    return folder / uuid.uuid4().hex


def make_folder(folder: Path) -> None:
    """Create a local folder with its parents; all that are new survive a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def publish(temporary: Path, final: Path) -> None:
    """Rename a finished, flushed file or folder into place and make the rename durable."""
    make_folder(final.parent)
    temporary.rename(final)
    sync_folder(final.parent)


def publish_folder(temporary: Path, final: Path) -> None:
    """Flush every file of a finished folder, recursively, then move it into place."""
    for path in temporary.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    publish(temporary, final)


@contextmanager
def new_folder(root: Path, final: Path, *, last: str) -> Iterator[Path]:
    """Fill a local folder that appears as ``final`` when the block ends without an error.

    Args:
        root: The store.
        final: The folder; must not exist. Behind a URL an incomplete one is overwritten.
        last: The file that is written last; ``has_folder`` looks for it behind a URL.
    """
    if is_remote(final):
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
            files = [path for path in Path(scratch).rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: (path.name == last, path)):
                name = path.relative_to(scratch).as_posix()
                remote.put(final / name, path.read_bytes())
        return
    temporary = temporary_path(root)
    temporary.mkdir()
    yield temporary
    publish_folder(temporary, final)


@contextmanager
def folder_in_one_step(final: Path) -> Iterator[Path]:
    """Fill a local folder outside a store; it appears as ``final`` when the block ends.

    The files are written to a temporary folder next to ``final``. If the block raises, the
    temporary folder is removed and ``final`` is not touched.

    Args:
        final: The folder; must not exist or be empty.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}.") as scratch:
        temporary = Path(scratch) / final.name
        temporary.mkdir()
        yield temporary
        publish_folder(temporary, final)


@contextmanager
def replacing(final: Path) -> Iterator[BinaryIO]:
    """Write a local file outside a store; it replaces ``final`` when the block ends.

    The bytes go to a temporary file next to ``final``, on the same file system, and are flushed to
    the disk first. If the block raises, ``final`` is not touched; after a kill at any moment
    ``final`` is the old file or the new one.

    Args:
        final: The file; its folder is created.
    """
    make_folder(final.parent)
    temporary = final.with_name(f".{final.name}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(final.parent)


def has_folder(final: Path, *, last: str) -> bool:
    """Return whether a folder written by ``new_folder`` exists."""
    return (final / last if is_remote(final) else final).exists()


def sync_folder(folder: Path) -> None:
    """Flush a directory entry to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(root: Path, final: Path, data: bytes) -> None:
    """Write one small file atomically."""
    if is_remote(final):
        remote.put(final, data)
        return
    temporary = temporary_path(root)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    publish(temporary, final)


def write_json(root: Path, final: Path, document: dict[str, Any]) -> None:
    """Write a JSON object atomically, with a checksum; equal content gives equal bytes."""
    write_bytes(root, final, sealed(document))


def read_json(path: Path, *, purpose: str) -> dict[str, Any]:
    """Read a JSON object written by ``write_json``; ``purpose`` is the start of errors.

    Raises:
        StoreError: If the file is missing.
        CorruptShardError: If any byte of it differs from what was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"{purpose}: {path}: {reason(error)}") from None
    try:
        document = json.loads(data)
        del document[_SEAL]
    except (ValueError, KeyError, TypeError):
        document = None
    if document is None or sealed(document) != data:
        raise CorruptShardError(f"{purpose}: {path} does not match its checksum")
    assert isinstance(document, dict)
    return document


def sealed(document: dict[str, Any]) -> bytes:
    """Return a document as JSON with its checksum; equal content gives equal bytes."""
    body = json.dumps(document, sort_keys=True).encode()
    return (json.dumps({**document, _SEAL: crc32c(body)}, indent=1, sort_keys=True) + "\n").encode()


def map_file(path: Path) -> NDArray[np.uint8]:
    """Return the bytes of a file, read-only: a memory map, or a copy if it is behind a URL.

    Raises:
        CorruptShardError: If it is missing or empty.
    """
    try:
        if is_remote(path):
            return np.frombuffer(remote.read(path), dtype=np.uint8)
        return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except (OSError, ValueError) as error:
        raise CorruptShardError(f"reading {path}: {error}") from None


def map_copy(path: Path) -> NDArray[np.uint8]:
    """Return the bytes of an object behind a URL, read-only: a memory map of a temporary copy.

    Raises:
        CorruptShardError: If it is missing or empty.
    """
    try:
        with tempfile.NamedTemporaryFile() as copy:  # the map outlives the file's name
            remote.download(path, copy.name)
            return np.asarray(np.memmap(copy.name, dtype=np.uint8, mode="r"))
    except (OSError, ValueError) as error:
        raise CorruptShardError(f"reading {path}: {error}") from None


def open_stream(path: Path) -> BinaryIO:
    """Open a file to read it from start to end.

    Raises:
        CorruptShardError: If it is missing.
    """
    try:
        return remote.open_stream(path) if is_remote(path) else path.open("rb")
    except OSError as error:
        raise CorruptShardError(f"reading {path}: {reason(error)}") from None


def append_line(path: Path, line: str) -> None:
    """Append a line to a small log; behind a URL the whole log is written again."""
    if is_remote(path):
        before = remote.read(path) if path.exists() else b""
        remote.put(path, before + f"{line}\n".encode())
        return
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def remove_file(path: Path) -> None:
    """Remove a file if it exists."""
    remote.remove(path) if is_remote(path) else path.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder and its content if it exists."""
    remote.remove(path) if is_remote(path) else shutil.rmtree(path, ignore_errors=True)


def folder_size(path: Path) -> int:
    """Return the bytes of all files in a folder; 0 if it does not exist."""
    if is_remote(path):
        return remote.total_size(path)
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def sweep_temporary(root: Path) -> None:
    """Remove temporary files and uploads of killed writers."""
    if is_remote(root):
        remote.abort_uploads(root)
    else:
        shutil.rmtree(root / TEMPORARY, ignore_errors=True)


def reason(error: OSError) -> str:
    """Return why a file could not be read or written; storage behind a URL has no ``strerror``."""
    return error.strerror or one_line(error)


def crc32c(data: bytes | memoryview | NDArray[np.uint8], crc: int = 0) -> int:
    """Return the CRC-32C of ``data``, continuing from ``crc``; an array is not copied."""
    return int(google_crc32c.extend(crc, bytes(data) if isinstance(data, memoryview) else data))


def crc32c_of_file(path: Path) -> tuple[int, int]:
    """Return a file's CRC-32C and its size in bytes."""
    crc, size = 0, 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            crc = crc32c(block, crc)
            size += len(block)
    return crc, size
