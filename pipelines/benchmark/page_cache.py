"""The kernel's page cache, and the files that this process has mapped."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

_BLOCK = 8 << 20


def reload(paths: Sequence[Path]) -> None:
    """Read files from the disk into the page cache, as another process would.

    Directly after writing, the size of the kernel's pages, and so the speed of a memory map,
    depends on the size of the writes.
    """
    drop_pages(paths)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.read(_BLOCK):
                pass


def drop_pages(paths: Sequence[Path]) -> None:
    """Drop clean pages of files from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def mapped_file(address: int) -> str | None:
    """Return the file mapped at an address of this process; None if there is none."""
    maps = Path("/proc/self/maps")
    for line in maps.read_text().splitlines() if maps.exists() else ():
        span, _, _, _, _, *path = line.split(maxsplit=5)
        begin, end = (int(part, 16) for part in span.split("-"))
        if begin <= address < end:
            return path[0] if path and path[0].startswith("/") else None
    return None
