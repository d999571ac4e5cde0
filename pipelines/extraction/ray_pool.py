"""Ray: a pool of workers, each of which takes one shard at a time.

Only shard numbers and reports travel through Ray; features go from the model to the store. The pool
grows with the cluster, and replaces workers of a lost node when there is room.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from lens_cache.config.load import to_tree
from lens_cache.errors import ExtractionError, LensCacheError, StoreMismatchError, one_line
from lens_cache.extraction.device_errors import DeviceError
from pipelines.extraction import ray_cluster
from pipelines.extraction.job import Job
from pipelines.extraction.ledger import Ledger, Task
from pipelines.extraction.ray_worker import OPTIONS, Place, Worker

_POLL_SECONDS = 0.5
_LOOK_SECONDS = 2.0
# A worker needs some seconds to start; after this long without any, tell the user why.
_PATIENCE_SECONDS = 60.0
_FAILURES_OF_A_DEVICE = 2
# Errors of a disk that a second try on another machine does not fix.
_FINAL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def run_on_ray(job: Job, ledger: Ledger, address: str | None) -> None:
    """Extract every shard of the ledger on a Ray cluster, or on this machine.

    Args:
        job: The extraction.
        ledger: Its shards.
        address: A cluster's address; without it the one in ``RAY_ADDRESS``, else this machine.

    Raises:
        LensCacheError: If a worker had an error that is not one image's, or workers keep dying.
    """
    try:
        alone = ray_cluster.connect(address)
        job.stop.listen()  # Ray takes SIGTERM for itself.
        options = ray_cluster.placement(job.config.workers)
        if alone:
            ray_cluster.require_room(options)
        with job.stop.draining():
            job.message("starting workers: each loads the models")
            _Pool(job, ledger, options).run()
    finally:
        ray.shutdown()


class _Pool:
    def __init__(self, job: Job, ledger: Ledger, options: dict[str, Any]) -> None:
        self._job, self._ledger, self._options = job, ledger, options
        self._running: dict[Any, tuple[Any, Task]] = {}
        self._committing: dict[Any, tuple[Any, Task]] = {}
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._places: dict[Any, Place] = {}
        # How often the device of a place failed, and the workers that keep it, or one of a kind
        # that does not fit, occupied.
        self._device_failures: Counter[Place] = Counter()
        self._retired: dict[Any, tuple[Place, LensCacheError]] = {}
        self._failed_starts = 0
        self._size, self._looked = 0, float("-inf")
        self._last_worker = time.monotonic()

    def run(self) -> None:
        """Work until every shard is done; after a signal, until the running ones are done."""
        while not self._ledger.finished:
            if not self._job.stop.requested:
                self._fill()
                self._deal()
            elif not self._running and not self._committing:
                return
            awaited = [*self._committing, *self._running, *self._starting]
            done, _ = ray.wait(awaited, timeout=_POLL_SECONDS)
            for reference in done:
                if reference in self._starting:
                    self._welcome(reference)
                elif reference in self._running:
                    self._collect(reference)
                else:
                    self._note_commit(reference)
            self._poll_progress()

    def _fill(self) -> None:
        """Start workers while the cluster has room and tasks are waiting.

        Called repeatedly, this uses new nodes and replaces dead workers.
        """
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._looked = now
            workers = self._job.config.workers
            self._size = ray_cluster.room(workers, self._options, self._job.memory)
            living = ray_cluster.living_nodes()
            self._retired = {
                worker: (place, error)
                for worker, (place, error) in self._retired.items()
                if place.node in living
            }
        there = len(self._running) + len(self._idle) + len(self._starting)
        usable = self._size - len(self._retired)
        wanted = min(usable, len(self._running) + self._ledger.waiting)
        for _ in range(wanted - there):
            self._start_worker()
        if self._running or self._idle:
            self._last_worker = now
        elif now - self._last_worker > _PATIENCE_SECONDS:
            for _, error in self._retired.values():
                raise error  # they occupy what the missing workers wait for
            self._last_worker = float("inf")  # once is enough
            self._job.message(
                f"no worker has started for {_PATIENCE_SECONDS:g} s: "
                f"{ray_cluster.describe(self._options)}; if that is not enough, lower workers.* or "
                "add nodes"
            )

    def _welcome(self, reference: Any) -> None:
        """Use a worker once its process has started.

        Raises:
            ExtractionError: If too many died before that.
        """
        worker = self._starting.pop(reference)
        try:
            self._places[worker] = ray.get(reference)
        except RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= self._job.config.workers.max_consecutive_failures:
                raise ExtractionError(
                    f"stopped after {self._failed_starts} worker processes died as they started: "
                    f"{one_line(error)}"
                ) from None
        else:
            self._failed_starts = 0
            self._use(worker)

    def _use(self, worker: Any) -> None:
        """Make a worker take tasks, if its kind of device fits the store.

        Raises:
            StoreMismatchError: If it does not and no other worker is left.
        """
        place = self._places[worker]
        try:
            if place.device:
                self._job.require_device(place.device)
        except StoreMismatchError as error:
            self._retire(worker, error, "is not used")
        else:
            self._idle.append(worker)

    def _deal(self) -> None:
        while self._idle and (task := self._ledger.next()) is not None:
            worker = self._idle.pop()
            self._running[worker.run.remote(task)] = (worker, task)

    def _collect(self, reference: Any) -> None:
        """Handle the end of a task; its shard is done when it is committed."""
        worker, task = self._running.pop(reference)
        try:
            ray.get(reference)
        except RayTaskError as error:
            if isinstance(error.cause, DeviceError):
                self._ledger.again(task)
                self._end_on_bad_device(worker, error.cause)
                return
            self._try_again(task, error.cause)
            self._idle.append(worker)
        except RayError:  # the process or its node is gone
            node = self._places.pop(worker).node
            lost = node not in ray_cluster.living_nodes()
            poison = self._ledger.died(task, node_lost=lost)
            if poison is not None:
                self._job.on_poison(poison)
        else:
            self._idle.append(worker)
            if task.probe:
                self._ledger.done(task)
            else:
                self._committing[worker.committed.remote(task.shard)] = (worker, task)

    def _note_commit(self, reference: Any) -> None:
        """Handle the end of a commit; its worker may already run the next shard."""
        worker, task = self._committing.pop(reference)
        try:
            report = ray.get(reference)
        except RayTaskError as error:
            self._try_again(task, error.cause)
        except RayError:
            # The models survived this shard: it is queued again as if its node were lost.
            self._ledger.died(task, node_lost=True)
            if worker in self._idle:
                self._idle.remove(worker)
                del self._places[worker]
        else:
            self._ledger.done(task)
            self._job.on_report(report)

    def _end_on_bad_device(self, worker: Any, error: DeviceError) -> None:
        """End a worker whose device failed; use the device no more if it failed before.

        Raises:
            LensCacheError: If no worker is left.
        """
        place = self._places[worker]
        self._device_failures[place] += 1
        if self._device_failures[place] < _FAILURES_OF_A_DEVICE:
            self._job.message(f"{place.name}: {one_line(error)}; trying it once more")
            del self._places[worker]
            ray.kill(worker)  # a new process makes a new context
            return
        self._retire(worker, error, "failed again and is not used any more")

    def _retire(self, worker: Any, error: LensCacheError, what: str) -> None:
        """Keep the process of a worker, so that Ray places no other one there, but do not use it.

        Raises:
            LensCacheError: If no worker is left.
        """
        place = self._places.pop(worker)
        self._retired[worker] = (place, error)
        if len(self._retired) >= self._size and not self._running and not self._idle:
            raise error
        self._job.message(f"{place.name} {what}; {one_line(error)}")

    def _try_again(self, task: Task, cause: BaseException | None) -> None:
        """Queue a task again if another try may succeed.

        Raises:
            LensCacheError: If not.
        """
        transient = isinstance(cause, OSError) and cause.errno not in _FINAL
        if not (transient and self._ledger.failed(task)):
            raise _plain(cause, task) from None

    def _poll_progress(self) -> None:
        at_work = [*self._running.values(), *self._committing.values()]
        busy = [
            worker.images_done.remote()
            for worker in {worker for worker, task in at_work if not task.probe}
        ]
        ready, _ = (
            ray.wait(busy, num_returns=len(busy), timeout=_POLL_SECONDS) if busy else ([], [])
        )
        try:
            self._job.on_progress(sum(ray.get(ready)))
        except RayError:
            return  # The task itself reports the death.

    def _start_worker(self) -> None:
        device = "cuda" if "num_gpus" in self._options else "cpu"
        remote = ray.remote(**OPTIONS, **self._options)(Worker)
        job = self._job
        worker: Any = remote.remote(
            job.root, to_tree(job.config), job.groups, device, self._options
        )
        self._starting[worker.ready.remote()] = worker


def _plain(cause: BaseException | None, task: Task) -> LensCacheError:
    """Return a worker's error as one of ours, without Ray's remote stack trace."""
    if isinstance(cause, LensCacheError):
        return cause
    if isinstance(cause, OSError):
        return ExtractionError(
            f"writing shard {task.shard}: {cause.strerror or one_line(cause)}"
            f"{f' ({cause.filename})' if cause.filename else ''}; no partial file was kept. "
            "Make room or repair the disk, then run the same command again"
        )
    return ExtractionError(
        f"extracting shard {task.shard}: {type(cause).__name__}: "
        f"{one_line(cause or Exception())}; fix the cause, then run the same command again"
    )
