"""An exclusive lock on a local file that ends with its process."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, busy: Exception) -> Iterator[int]:
    """Hold a lock without waiting for it.

    Some network disks have no file locks; there the lock is not enforced.

    Args:
        path: The lock file; it is created.
        busy: Raised if another process holds the lock.

    Yields:
        The file descriptor of the lock. A child process that inherits it keeps the lock.

    Raises:
        OSError: If the file cannot be created.
    """
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise busy from None
        except OSError:
            pass
        yield lock.fileno()
