"""Requests that arrive together run together.

One thread owns the model. It takes all requests that wait, up to a number of instructions, and runs
the head once for them. A request that gives up is skipped; an error of one is an error of that one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lens_cache.predictor import LensPredictor, Segmentation

Answers = list[Segmentation]


class QueueFullError(Exception):
    """More requests wait than the server accepts."""


@dataclass(frozen=True)
class _Request:
    pixels: NDArray[np.uint8]
    instructions: list[str]
    future: Future[Answers] = field(default_factory=Future)


@dataclass(frozen=True)
class _Call:
    """A function that needs the model for itself."""

    function: Callable[[], object]
    future: Future[object] = field(default_factory=Future)


class Batcher:
    """Runs the requests of all clients on one predictor.

    Args:
        predictor: The predictor.
        max_queue: Most requests that wait.
        max_batch: Most instructions that run together.
        observe: Called with the number of requests of each batch.
    """

    def __init__(
        self,
        predictor: LensPredictor,
        *,
        max_queue: int,
        max_batch: int,
        observe: Callable[[int], None] | None = None,
    ) -> None:
        self._predictor = predictor
        self._queue: queue.Queue[_Request | _Call | None] = queue.Queue(max_queue)
        self._max_batch = max_batch
        self._observe = observe
        self._thread = threading.Thread(target=self._run, name="lens-cache model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return self._queue.qsize()

    def segment(self, pixels: NDArray[np.uint8], instructions: Sequence[str]) -> Future[Answers]:
        """Queue an image of shape (H, W, 3) with its instructions.

        Raises:
            QueueFullError: If too many requests wait.
        """
        request = _Request(pixels, list(instructions))
        self._put(request)
        return request.future

    def call(self, function: Callable[[], object]) -> Future[object]:
        """Queue a function that uses the predictor.

        Raises:
            QueueFullError: If too many requests wait.
        """
        call = _Call(function)
        self._put(call)
        return call.future

    def close(self) -> None:
        """Finish the requests that wait, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _put(self, entry: _Request | _Call) -> None:
        try:
            self._queue.put_nowait(entry)
        except queue.Full:
            raise QueueFullError from None

    def _run(self) -> None:
        held: _Request | _Call | None = None
        while True:
            entry = self._queue.get() if held is None else held
            held = None
            if entry is None:
                return
            if isinstance(entry, _Call):
                _answer(entry.future, entry.function)
                continue
            batch, held, stop = self._gather(entry)
            self._segment(batch)
            if stop:
                return

    def _gather(self, first: _Request) -> tuple[list[_Request], _Call | _Request | None, bool]:
        """Take requests that wait; returns them, one that comes next, and whether to stop."""
        batch, count = [first], len(first.instructions)
        while True:
            try:
                entry = self._queue.get_nowait()
            except queue.Empty:
                return batch, None, False
            if entry is None:
                return batch, None, True
            if isinstance(entry, _Call) or count + len(entry.instructions) > self._max_batch:
                return batch, entry, False
            batch.append(entry)
            count += len(entry.instructions)

    def _segment(self, batch: list[_Request]) -> None:
        wanted = [one for one in batch if one.future.set_running_or_notify_cancel()]
        if not wanted:
            return
        if self._observe is not None:
            self._observe(len(wanted))
        try:
            found = self._predictor.batch(
                [one.pixels for one in wanted], [one.instructions for one in wanted]
            )
        except Exception as error:  # whatever one request did must not take the others with it
            if len(wanted) == 1:
                wanted[0].future.set_exception(error)
                return
            for one in wanted:
                self._alone(one)
            return
        for one, answers in zip(wanted, found, strict=True):
            one.future.set_result(answers)

    def _alone(self, request: _Request) -> None:
        try:
            found = self._predictor.batch([request.pixels], [request.instructions])
        except Exception as error:
            request.future.set_exception(error)
        else:
            request.future.set_result(found[0])


def _answer(future: Future[object], function: Callable[[], object]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = function()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(result)
