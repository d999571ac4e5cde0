"""Keep a model busy: threads read ahead, and others encode and write the results."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_WRITE_BEHIND = 4
# Threads that encode what is written.
ENCODERS = 2
_MOST_READERS = 8


def reading_threads(workers: int = 1, limit: int | None = None) -> int:
    """Return how many threads of a worker read images: its share of the cores, at most 8.

    Args:
        workers: Workers that share the cores which this process may use.
        limit: Cores that all of them may use, e.g. of a container, if it is known.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    if limit is not None:
        cores = min(cores, limit)
    return max(1, min(_MOST_READERS, cores // workers))


def read_ahead(
    function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int = 4
) -> Generator[tuple[T, R], None, None]:
    """Yield items with their results in order, while threads work on the next few.

    Args:
        function: Called in the threads.
        items: Its arguments; consumed only as fast as the results are used.
        threads: Number of threads.
        ahead: Results that may wait to be used, at least one per thread.
    """
    with ThreadPoolExecutor(threads, "read") as pool:
        waiting: deque[tuple[T, Future[R]]] = deque()
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) > max(ahead, threads):
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


class WriteBehind:
    """Threads that encode and one that writes while the model runs; at most a few calls are queued.

    Encoding to int8 takes longer than a model on a GPU takes for an image.
    """

    def __init__(self) -> None:
        self._encoders = ThreadPoolExecutor(ENCODERS, "encode")
        self._pool = ThreadPoolExecutor(1, "write")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, *_: object) -> None:
        self._encoders.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)

    def submit(self, encode: Callable[[], T], write: Callable[[T], None]) -> None:
        """Queue a value to be encoded, in any order, and then written, in the order of the calls.

        Waits while too many are pending, and raises an earlier call's error.
        """
        encoded = self._encoders.submit(encode)
        self._pending.append(self._pool.submit(lambda: write(encoded.result())))
        while len(self._pending) > _WRITE_BEHIND:
            self._pending.popleft().result()

    def wait(self) -> None:
        """Wait until every call has ended."""
        while self._pending:
            self._pending.popleft().result()


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield items in order in lists of ``size``; the last one may be shorter."""
    stream = iter(items)
    while batch := list(islice(stream, size)):
        yield batch
