"""The Ray actor of an extraction: it has the frozen models and extracts one shard at a time."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import parse_config
from lens_cache.extraction.computation import device_kind
from lens_cache.extraction.extractor import ShardExtractor, ShardReport
from lens_cache.extraction.threads import reading_threads
from lens_cache.store.layout import Group
from pipelines.extraction.ledger import Task
from pipelines.extraction.ray_cluster import workers_on_node


@dataclass(frozen=True)
class Place:
    """Where a worker runs.

    Attributes:
        node: Ray's id of the node.
        gpus: Ids of its GPUs there; none on a CPU.
        device: Kind of its device; empty if the device cannot be used.
    """

    node: str
    gpus: tuple[str, ...]
    device: str

    @property
    def name(self) -> str:
        """The place in words."""
        gpus = f"GPU {', '.join(self.gpus)}" if self.gpus else "CPU"
        return f"{gpus} of node {self.node[:8]}"


# The models run in one thread: libraries of the GPU keep plans and workspaces for each thread.
# Commits and progress are answered by others. Ray retries nothing: the ledger decides.
OPTIONS: dict[str, Any] = {
    "max_restarts": 0,
    "max_task_retries": 0,
    "concurrency_groups": {"models": 1, "answers": 2},
}


class Worker:
    """A ``ShardExtractor`` that is built on first use, so that its errors reach the driver."""

    def __init__(
        self,
        root: Path,
        config: dict[str, Any],
        groups: tuple[Group, ...],
        device: str,
        options: dict[str, Any],
    ) -> None:
        self._root, self._groups, self._device, self._options = root, groups, device, options
        self._config = parse_config(ExtractConfig, config, source="the store's settings")
        self._extractor: ShardExtractor | None = None
        self._commits: dict[int, Future[ShardReport]] = {}

    @ray.method(concurrency_group="answers")
    def ready(self) -> Place:
        """Return the place of the process once it has started."""
        node: str = ray.get_runtime_context().get_node_id()
        try:
            device = device_kind(self._device)
        except RuntimeError:  # the first shard tells why
            device = ""
        return Place(node, tuple(str(gpu) for gpu in ray.get_gpu_ids()), device)

    @ray.method(concurrency_group="models")
    def run(self, task: Task) -> None:
        """Extract a shard and start to commit it, or probe some of its images."""
        if self._extractor is None:
            config = self._with_reading_threads()
            self._extractor = ShardExtractor(self._root, config, self._groups, self._device)
        if task.probe:
            self._extractor.probe(task.probe, task.groups)
        else:
            self._commits[task.shard] = self._extractor.extract_ahead(task.shard, task.groups)

    def _with_reading_threads(self) -> ExtractConfig:
        """Return the settings with as many reading threads as this worker has cores for."""
        workers = self._config.workers
        node: str = ray.get_runtime_context().get_node_id()
        threads = workers.decode_threads or reading_threads(
            *workers_on_node(node, self._options, workers.count)
        )
        return replace(self._config, workers=replace(workers, decode_threads=threads))

    @ray.method(concurrency_group="answers")
    def committed(self, shard: int) -> ShardReport:
        """Wait for the commit of a shard that was run."""
        return self._commits.pop(shard).result()

    @ray.method(concurrency_group="answers")
    def images_done(self) -> int:
        """Return how many images of shards that are not committed are done."""
        return self._extractor.images_done if self._extractor is not None else 0
