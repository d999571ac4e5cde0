"""Planning on Ray: chunks of records are read by tasks on every core of the machine or cluster.

Every process opens the dataset once. Rows are returned through Ray's object store, a few hundred
kilobytes a chunk; at most a few chunks per core are in progress at a time.
"""

from __future__ import annotations

import os
import signal
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from lens_cache.datasets.source import DataSource, Mapper, in_threads
from lens_cache.errors import DatasetError, LensCacheError, one_line
from pipelines.extraction import ray_cluster

C = TypeVar("C")
R = TypeVar("R")

# Starting processes takes some seconds, in which threads read about this many chunks.
MIN_CHUNKS = 256
# How often a chunk is read again when the process that read it died.
_RETRIES = 3
_UNDER_WAY_PER_CORE = 3


def ray_mapper(address: str | None, *, min_chunks: int = MIN_CHUNKS) -> Mapper:
    """Return a mapper for a Ray cluster, or for every core of this machine.

    A small number of chunks, and any number on a machine with one core, is read in threads of this
    process instead.

    Args:
        address: A cluster's address; without it the one in ``RAY_ADDRESS``, else this machine.
        min_chunks: Fewer chunks than this are read in threads.
    """

    def mapper(
        source: DataSource, function: Callable[[DataSource, C], R], chunks: Sequence[C]
    ) -> Iterator[R]:
        elsewhere = bool(address or os.environ.get("RAY_ADDRESS"))
        if len(chunks) < min_chunks or not (elsewhere or (os.cpu_count() or 1) > 1):
            yield from in_threads()(source, function, chunks)
            return
        with _connected(address):
            yield from _map(source, function, chunks)

    return mapper


def _map(
    source: DataSource, function: Callable[[DataSource, C], R], chunks: Sequence[C]
) -> Iterator[R]:
    """Keep every core busy; a chunk whose process or node died is read again.

    Raises:
        LensCacheError: If a task raised one, or processes kept dying on a chunk.
    """
    task: Any = ray.remote(num_cpus=1, max_retries=_RETRIES)(_apply)
    token, job = uuid.uuid4().hex, ray.put((source, function))
    left, waiting = deque(chunks), deque[Any]()
    while left or waiting:
        room = _UNDER_WAY_PER_CORE * max(1, int(ray_cluster.resources().get("CPU", 1)))
        while left and len(waiting) < room:
            waiting.append(task.remote(token, [job], left.popleft()))
        try:
            yield ray.get(waiting.popleft())
        except RayTaskError as error:
            raise _plain(error.cause) from None
        except RayError as error:
            raise DatasetError(
                f"planning {source.config.root}: a worker process died {_RETRIES + 1} times on the "
                f"same records ({one_line(error)}); it may lack memory: look at `free -g`, or plan "
                "with fewer cores"
            ) from None


def _apply(token: str, job: list[Any], chunk: Any) -> Any:
    """Read a chunk; ``job`` is in a list so that Ray passes the reference, not the object."""
    source, function = _opened(token, job[0])
    return function(source, chunk)


@lru_cache(maxsize=1)
def _opened(token: str, job: Any) -> Any:
    """Fetch source and function once per process; the source caches the opened dataset."""
    return ray.get(job)


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Join or start Ray, and leave it at the end; the signal handlers stay ours."""
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray_cluster.connect(address)
        if main:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()


def _plain(cause: BaseException | None) -> LensCacheError:
    """Return a worker's error as one of ours, without Ray's remote stack trace."""
    if isinstance(cause, LensCacheError):
        return cause
    return DatasetError(f"planning: {type(cause).__name__}: {one_line(cause or Exception())}")
