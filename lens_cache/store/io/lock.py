"""The right to write to a store: a file lock on a disk, a lease behind a URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lens_cache.errors import StoreError
from lens_cache.store.io.file_lock import file_lock
from lens_cache.store.io.lease import lease
from lens_cache.store.io.remote import is_remote, plain_errors

LOCK = ".lock"


@contextmanager
def writer_lock(root: Path) -> Iterator[Callable[[], None]]:
    """Hold the store for writing; the lock ends with its process, or soon after behind a URL.

    Yields a check that raises if another process took over because this one hung.

    Raises:
        StoreError: If the store cannot be written, or another process holds the lock.
    """
    if is_remote(root):
        with plain_errors(root, "writing to the store"), lease(root) as require:
            yield require
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / LOCK).touch()
    except OSError as error:
        raise StoreError(
            f"opening the store {root} for writing: {error.strerror}; choose a writable folder"
        ) from None
    busy = StoreError(
        f"opening the store {root} for writing: another extraction holds it; wait until it ends"
    )
    # On a network disk without locks two writers would only do the same work twice, because every
    # file is written under a unique name and renamed over one with equal content.
    with file_lock(root / LOCK, busy):
        yield lambda: None
