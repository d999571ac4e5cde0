"""Ray: a pool of actors that each hold the frozen models and take one shard at a time.

Only shard numbers and reports travel through Ray; features go from the model to the store.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import RayError, RayTaskError

from lens_cache.config import ExtractConfig
from lens_cache.config_file import parse_config, to_tree
from lens_cache.errors import ExtractionError, LensCacheError, one_line
from lens_cache.extraction import ShardExtractor, ShardReport
from lens_cache.store.layout import Group
from pipelines.extract import Run
from pipelines.ledger import Ledger, Task

_POLL_SECONDS = 0.5


class Worker:
    """The actor: a ``ShardExtractor`` that is built on first use, so that its errors come back."""

    def __init__(self, root: Path, config: dict[str, Any], groups: tuple[Group, ...]) -> None:
        self._root, self._groups = root, groups
        self._config = parse_config(ExtractConfig, config, source="the store's settings")
        self._extractor: ShardExtractor | None = None

    def ready(self) -> None:
        """Return once the process is there."""

    def run(self, task: Task) -> ShardReport | None:
        """Extract a shard, or probe some of its images."""
        if self._extractor is None:
            device = "cuda" if ray.get_gpu_ids() else "cpu"
            self._extractor = ShardExtractor(self._root, self._config, self._groups, device)
        if task.probe:
            self._extractor.probe(task.probe, task.groups)
            return None
        return self._extractor.extract(task.shard, task.groups)

    def images_done(self) -> int:
        """Return how far the current shard is."""
        return self._extractor.images_done if self._extractor is not None else 0


def run_on_ray(run: Run, ledger: Ledger, address: str | None) -> None:
    """Extract every shard of the ledger on a Ray cluster, or on this machine.

    Args:
        run: The extraction.
        ledger: The shards to do.
        address: A cluster's address; without it the one in ``RAY_ADDRESS``, else this machine.

    Raises:
        LensCacheError: If a worker met an error that is not one image's, or workers keep dying.
    """
    _connect(address)
    try:
        if not address and "RAY_ADDRESS" not in os.environ:
            _require_room(run.config)
        _Pool(run, ledger).run()
    finally:
        ray.shutdown()


def _connect(address: str | None) -> None:
    """Join the cluster, or start one here without a dashboard.

    Left to itself, Ray would join whatever another program started on this machine, and lose its
    workers when that ends.
    """
    elsewhere = address or os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if elsewhere else {"include_dashboard": False}
    try:
        ray.init(
            address=elsewhere or "local", log_to_driver=False, logging_level=logging.ERROR, **local
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ExtractionError(
            f"connecting to Ray at {elsewhere or 'this machine'}: {one_line(error)}"
        ) from None


class _Pool:
    def __init__(self, run: Run, ledger: Ledger) -> None:
        self._run, self._ledger = run, ledger
        self._options = self._placement()
        self._running: dict[Any, tuple[Any, Task]] = {}
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._failed_starts = 0

    def run(self) -> None:
        for _ in range(min(self._size(), self._ledger.waiting)):
            self._start_worker()
        while not self._ledger.finished:
            self._deal()
            done, _ = ray.wait([*self._running, *self._starting], timeout=_POLL_SECONDS)
            for reference in done:
                if reference in self._starting:
                    self._welcome(reference)
                else:
                    self._collect(reference)
            self._poll_progress()

    def _welcome(self, reference: Any) -> None:
        """Take a worker in when its process is there; one that the cluster has no room for waits.

        Raises:
            ExtractionError: If too many died before that.
        """
        worker = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= self._run.config.workers.max_consecutive_failures:
                raise ExtractionError(
                    f"stopped after {self._failed_starts} worker processes died as they started: "
                    f"{one_line(error)}"
                ) from None
            self._start_worker()
        else:
            self._failed_starts = 0
            self._idle.append(worker)

    def _deal(self) -> None:
        while self._idle and (task := self._ledger.next()) is not None:
            worker = self._idle.pop()
            self._running[worker.run.remote(task)] = (worker, task)

    def _collect(self, reference: Any) -> None:
        worker, task = self._running.pop(reference)
        try:
            report = ray.get(reference)
        except RayTaskError as error:
            raise _plain(error.cause, task) from None
        except RayError:  # the process or its node is gone
            poison = self._ledger.died(task)
            if poison is not None:
                self._run.on_poison(poison)
            self._start_worker()
            return
        self._ledger.done(task)
        self._idle.append(worker)
        if report is not None:
            self._run.on_report(report)

    def _poll_progress(self) -> None:
        busy = [
            worker.images_done.remote() for worker, task in self._running.values() if not task.probe
        ]
        ready, _ = (
            ray.wait(busy, num_returns=len(busy), timeout=_POLL_SECONDS) if busy else ([], [])
        )
        try:
            self._run.on_progress(sum(ray.get(ready)))
        except RayError:
            return  # A death shows in the task itself.

    def _start_worker(self) -> None:
        remote = ray.remote(**self._options)(Worker)
        worker: Any = remote.remote(self._run.root, to_tree(self._run.config), self._run.groups)
        self._starting[worker.ready.remote()] = worker

    def _placement(self) -> dict[str, Any]:
        """Return the resources of a worker.

        Nothing is retried by Ray: the ledger decides. A second thread answers for progress.
        """
        workers = self._run.config.workers
        options: dict[str, Any] = {"max_restarts": 0, "max_task_retries": 0, "max_concurrency": 2}
        if _resources().get("GPU", 0) > 0:
            return {**options, "num_gpus": workers.gpus_per_worker, "num_cpus": 1}
        return {**options, "num_cpus": workers.threads_per_worker}

    def _size(self) -> int:
        """Return how many workers the cluster holds, by GPUs or else by cores and memory."""
        workers, resources = self._run.config.workers, _resources()
        if workers.count is not None:
            return workers.count
        if "num_gpus" in self._options:
            return max(1, int(resources["GPU"] / workers.gpus_per_worker))
        by_cores = int(resources.get("CPU", 0)) // workers.threads_per_worker
        by_memory = int(resources.get("memory", 0) / max(1, self._run.memory))
        return max(1, min(by_cores, by_memory))


def _require_room(config: ExtractConfig) -> None:
    """Refuse a worker that this machine can never hold; a cluster may grow."""
    workers, resources = config.workers, _resources()
    for name, wanted, found, setting in (
        ("CPU cores", workers.threads_per_worker, resources.get("CPU", 0), "threads_per_worker"),
        ("GPUs", workers.gpus_per_worker, resources.get("GPU", 0), "gpus_per_worker"),
    ):
        if wanted > found and not (name == "GPUs" and found == 0):
            raise ExtractionError(
                f"starting workers: one takes {wanted:g} {name}, this machine has {found:g}; "
                f"lower workers.{setting}"
            )


def _resources() -> dict[str, float]:
    """Return what the cluster has in all."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _plain(cause: BaseException | None, task: Task) -> LensCacheError:
    """Return a worker's error as one of ours, without Ray's remote stack trace."""
    if isinstance(cause, LensCacheError):
        return cause
    if isinstance(cause, OSError):
        return ExtractionError(
            f"writing shard {task.shard}: {cause.strerror or one_line(cause)}"
            f"{f' ({cause.filename})' if cause.filename else ''}; nothing half-written was kept. "
            "Make room or mend the disk, then run the same command again"
        )
    return ExtractionError(
        f"extracting shard {task.shard}: {type(cause).__name__}: {one_line(cause or Exception())}"
    )
