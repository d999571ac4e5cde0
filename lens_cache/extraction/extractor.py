"""Run the frozen models over the images of a shard and commit the features.

This is independent of Ray: a Ray job has one ``ShardExtractor`` per worker process, and a test or a
notebook can use one without Ray.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from lens_cache.config.extract import ExtractConfig
from lens_cache.errors import ExtractionError
from lens_cache.extraction.computation import describe_computation, deterministic
from lens_cache.extraction.device_errors import device_errors
from lens_cache.extraction.engine import Crashed, Engine, Outcome
from lens_cache.extraction.same_weights import require_same_weights
from lens_cache.extraction.threads import WriteBehind
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.formats import GroupWriter, open_writers
from lens_cache.store.io.remote import store_path
from lens_cache.store.layout import Group, array_name
from lens_cache.store.manifest import Manifest
from lens_cache.store.quarantine import Quarantine, quarantined
from lens_cache.store.shared import SharedFiles
from lens_cache.store.values import to_bytes


@dataclass
class ShardReport:
    """The result of extracting a shard.

    Attributes:
        shard: The shard's number.
        images: Images written to at least one group.
        queries: Their queries.
        quarantined: The images that failed, per group.
        seconds: Time per stage: ``read`` and ``encode``, summed over the threads that do it;
            ``llava`` and ``sam``, on their device; ``write``, in a thread; ``commit``, in parallel
            with the models of the next shard.
        readers: Reading threads.
        wall: Seconds from its start until its commit could start.
        size: Bytes committed.
        smaller_batches: New number of images per batch, of groups that ran out of memory.
    """

    shard: int
    images: int = 0
    queries: int = 0
    quarantined: list[Quarantine] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    readers: int = 1
    wall: float = 0.0
    size: int = 0
    smaller_batches: dict[Group, int] = field(default_factory=dict)


class ShardExtractor:
    """Extracts shards of one store with the frozen models of some groups.

    Shards are committed in a separate thread, so that the models do not wait: one commit at a time,
    in the order of the shards.
    """

    def __init__(
        self, root: str | Path, config: ExtractConfig, groups: Sequence[Group], device: str
    ) -> None:
        """Load plan and models.

        Args:
            root: A prepared store.
            config: Its settings, with paths that are valid on this machine.
            groups: Feature groups to extract; only their models are loaded.
            device: The device of the models, e.g. ``cuda`` or ``cpu``.

        Raises:
            DeviceError: If the device failed.
            LensCacheError: If the models cannot be loaded.
            StoreMismatchError: If the models are not those that the store was prepared with.
        """
        self._root, self._config = store_path(root), config
        self._catalogue = Catalogue.load(Manifest.load(self._root), SharedFiles.load(self._root))
        self._plan = self._catalogue.plan
        self._specs = self._catalogue.manifest.specs
        self._failures: dict[str, int] = {}
        self._done: dict[int, int] = {}
        self._committer = ThreadPoolExecutor(1, "commit")
        self._last_commit: Future[ShardReport] | None = None
        self._device = device
        with device_errors(), self._deterministic():
            self._engine = Engine(
                self._plan,
                self._catalogue.questions,
                config,
                groups,
                side=self._catalogue.manifest.side,
                device=device,
            )
        require_same_weights(self._catalogue.manifest, config, groups)

    @property
    def images_done(self) -> int:
        """Images that the models have finished, in shards that are not committed yet."""
        return sum(self._done.values())

    def extract(self, shard: int, groups: Sequence[Group]) -> ShardReport:
        """Extract and commit one shard of the given groups.

        Raises:
            ExtractionError: If too many images failed one after another.
            OSError: If the store cannot be written.
            DeviceError: If the device failed.
        """
        return self.extract_ahead(shard, groups).result()

    def extract_ahead(self, shard: int, groups: Sequence[Group]) -> Future[ShardReport]:
        """Extract one shard of the given groups, and start to commit it.

        Waits for the previous commit, but does not raise its error.

        Returns:
            The commit, which ends when the shard is on disk, or with an ``OSError``.

        Raises:
            ExtractionError: If too many images failed one after another.
            OSError: If the store cannot be written.
            DeviceError: If the device failed.
        """
        torch.set_num_threads(self._config.workers.threads_per_worker)
        engine = self._engine
        began = time.perf_counter()
        engine.times.take()
        report = ShardReport(shard=shard, readers=engine.readers)
        sizes = engine.batch_sizes
        images, crashed = self._catalogue.images(shard), self._crashed(groups)
        with device_errors(), self._deterministic(), ExitStack() as until_committed:
            until_committed.callback(self._done.pop, shard, None)
            writers = until_committed.enter_context(
                open_writers(self._root, self._catalogue, shard, groups)
            )
            if shard == 0 and "hidden_states" in writers:
                self._write_prefix(writers["hidden_states"])
            with WriteBehind() as writes, closing(engine.run(images, groups, crashed)) as stream:
                for done in stream:
                    for group, outcome in done.outcomes.items():
                        self._count(group, outcome, report)
                        writes.submit(
                            partial(self._encode, outcome),
                            partial(self._write, writers[group], done.image, done.image_id),
                        )
                    report.images += 1
                    report.queries += len(self._plan.query_range(done.image))
                    self._done[shard] = report.images
                writes.wait()
            report.smaller_batches = {
                group: size for group, size in engine.batch_sizes.items() if size < sizes[group]
            }
            if self._last_commit is not None:
                wait([self._last_commit])
            report.seconds, report.wall = engine.times.take(), time.perf_counter() - began
            computed = {
                group: describe_computation(self._device, self._config.workers, size)
                for group, size in engine.batch_sizes.items()
            }
            self._last_commit = self._committer.submit(
                _commit, until_committed.pop_all(), writers, report, computed
            )
        return self._last_commit

    def probe(self, images: Sequence[int], groups: Sequence[Group]) -> None:
        """Run the models over some images and write nothing, to see if the process survives."""
        with device_errors(), self._deterministic():
            for _ in self._engine.run(images, groups, self._crashed(groups)):
                pass

    def _deterministic(self) -> AbstractContextManager[None]:
        return deterministic(self._config.workers.deterministic)

    def _crashed(self, groups: Sequence[Group]) -> Crashed:
        """Return per group the images that killed a worker; they are not run again."""
        return {
            group: {
                image_id: record
                for image_id, record in quarantined(self._root, group).items()
                if record.stage == "crash"
            }
            for group in groups
        }

    def _write_prefix(self, writer: GroupWriter) -> None:
        """Write the states of the system prefix; they are the same for every image."""
        for layer, states in self._engine.prefix().items():
            name = array_name(layer, "prefix")
            writer.add_prefix(name, to_bytes(states, self._specs[name]))

    def _encode(self, outcome: Outcome) -> dict[str, bytes] | Quarantine:
        """Return the arrays of an image as they are stored."""
        if isinstance(outcome, Quarantine):
            return outcome
        with self._engine.times.timed("encode"):
            return {name: to_bytes(value, self._specs[name]) for name, value in outcome.items()}

    def _write(
        self,
        writer: GroupWriter,
        image: int,
        image_id: str,
        encoded: Mapping[str, bytes] | Quarantine,
    ) -> None:
        with self._engine.times.timed("write"):
            if isinstance(encoded, Quarantine):
                writer.skip(encoded, self._catalogue.text_rows(image))
            else:
                writer.add(image_id, encoded)

    def _count(self, group: Group, outcome: object, report: ShardReport) -> None:
        """Count failures; too many in a row mean that the images are not the cause.

        Groups are counted separately, so that a broken model is noticed beside one that works.
        """
        if not isinstance(outcome, Quarantine):
            self._failures[group] = 0
            return
        report.quarantined.append(outcome)
        self._failures[group] = self._failures.get(group, 0) + 1
        limit = self._config.workers.max_consecutive_failures
        if self._failures[group] >= limit:
            raise ExtractionError(
                f"stopped after {limit} images failed in a row, the last {outcome.path} "
                f"({outcome.stage}: {outcome.reason}); fix the cause and run the same command "
                "again, or raise workers.max_consecutive_failures"
            )


def _commit(
    opened: ExitStack,
    writers: Mapping[Group, GroupWriter],
    report: ShardReport,
    computed: Mapping[Group, Mapping[str, str]],
) -> ShardReport:
    """Commit a shard whose images were all given to its writers."""
    with opened:
        began = time.perf_counter()
        for group, writer in writers.items():
            writer.commit(computed[group])
            report.size += writer.size
        report.seconds["commit"] = time.perf_counter() - began
    return report
