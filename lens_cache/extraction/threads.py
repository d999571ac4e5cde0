"""Keep a model busy: threads read ahead, and one thread writes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_WRITE_BEHIND = 4


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
    """One thread that writes while the model runs; at most a few calls are queued."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "write")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, function: Callable[..., None], *arguments: Any) -> None:
        """Queue a call; waits while too many are pending, and raises an earlier call's error."""
        self._pending.append(self._pool.submit(function, *arguments))
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
