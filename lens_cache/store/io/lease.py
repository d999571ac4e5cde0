"""The right to write to a remote store: an object that its holder renews while it is alive.

The lease is the object with the highest number in ``.lease``. It is created only if no object has
that name, so one of two competitors gets it. If a holder has not renewed it for ``LEASE_SECONDS``,
it is taken to be dead and the next number may be created. The age of a lease is the difference of
two times of the server: that of the lease and that of a probe written now. While a process watches
a lease, it measures time on its own monotonic clock. So no clock has to be right.

If a holder that was taken to be dead is still alive, it notices and stops; until then both write
the same bytes under the same names.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lens_cache.errors import StoreError
from lens_cache.store.io.remote import modified, put, read, remove

FOLDER = ".lease"
LEASE_SECONDS = 60.0
RENEW_SECONDS = 10.0
_WATCH_SECONDS = 1.0


@contextmanager
def lease(root: Path) -> Iterator[Callable[[], None]]:
    """Hold a remote store for writing; yields a check that raises once another took it over.

    Raises:
        StoreError: If another process holds it.
    """
    held = _Lease(root)
    held.acquire()
    stop = threading.Event()
    renewal = threading.Thread(target=held.renew_until, args=(stop,), daemon=True)
    renewal.start()
    try:
        yield held.require
    finally:
        stop.set()
        renewal.join()
        held.release()


class _Lease:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root / FOLDER
        self._taken_by: str | None = None
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        holder = f"process {os.getpid()} on {socket.gethostname()} since {since}"
        self._content = json.dumps({"holder": holder, "token": uuid.uuid4().hex}).encode()

    def acquire(self) -> None:
        while True:
            number, current = self._newest()
            if current is not None:
                self._wait_for_the_end_of(current)
            if self._create(number + 1):
                if current is not None:
                    remove(current)
                return

    def renew_until(self, stop: threading.Event) -> None:
        while not stop.wait(RENEW_SECONDS):
            # If the storage does not answer, no other process gets an answer either.
            with suppress(Exception):
                if not self._is_mine():
                    return
                put(self._path, self._content)

    def require(self) -> None:
        if self._taken_by is not None:
            raise StoreError(
                f"writing to the store {self._root}: this process did not answer for "
                f"{LEASE_SECONDS:.0f} s, and {self._taken_by} took over; what is committed stays"
            )

    def release(self) -> None:
        with suppress(Exception):  # it expires anyway
            if self._is_mine():
                remove(self._root / FOLDER)

    def _is_mine(self) -> bool:
        """Return whether this is still the lease; otherwise remember the new holder."""
        _, newest = self._newest()
        content = None if newest is None else _read(newest)
        if newest is not None and content is None:
            return self._is_mine()  # it ended in between: look again
        if content != self._content:
            self._taken_by = _holder(content)
        return content == self._content

    def _newest(self) -> tuple[int, Path | None]:
        found = sorted((self._root / FOLDER).glob("*.json"), key=_number)
        return (_number(found[-1]), found[-1]) if found else (0, None)

    def _create(self, number: int) -> bool:
        """Create the lease of a number; returns False if another process was faster."""
        self._path = self._root / FOLDER / f"{number:08d}.json"
        try:
            put(self._path, self._content, new=True)
        except OSError:
            # The answer to a first attempt may have been lost: the stored content decides.
            content = _read(self._path)
            if content is None:
                raise
            return content == self._content
        return True

    def _wait_for_the_end_of(self, current: Path) -> None:
        """Wait until a lease has expired.

        Raises:
            StoreError: If it is renewed meanwhile.
        """
        probe = self._root / FOLDER / f"{uuid.uuid4().hex}.probe"
        put(probe, b"")
        try:
            renewed, now = modified(current), modified(probe)
            until = time.monotonic() + LEASE_SECONDS - (now - renewed)
            while time.monotonic() < until:
                time.sleep(_WATCH_SECONDS)
                if modified(current) != renewed:
                    raise StoreError(
                        f"opening the store {self._root} for writing: another extraction holds it, "
                        f"{_holder(_read(current))}; wait until it ends"
                    )
        except FileNotFoundError:
            return  # It has ended.
        finally:
            remove(probe)


def _number(path: Path) -> int:
    return int(path.stem)


def _read(path: Path) -> bytes | None:
    try:
        return read(path)
    except FileNotFoundError:
        return None


def _holder(content: bytes | None) -> str:
    try:
        return str(json.loads(content or b"")["holder"])
    except (ValueError, KeyError, TypeError):
        return "another process"
