"""An extraction under way: what a runner needs to extract the missing shards, and reports to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lens_cache.config.extract import ExtractConfig
from lens_cache.errors import StoreMismatchError
from lens_cache.extraction.computation import DEVICE
from lens_cache.extraction.extractor import ShardReport
from lens_cache.extraction.prepare import PreparedStore
from lens_cache.store.folder import Todo
from lens_cache.store.layout import GROUPS, Group
from lens_cache.store.manifest import with_overrides
from lens_cache.store.quarantine import Quarantine
from lens_cache.store.run_log import RunLog
from pipelines.extraction.cost import model_bytes
from pipelines.extraction.ledger import Ledger, Poison
from pipelines.interrupt import Stop
from pipelines.progress import Reporter
from pipelines.provenance import record_run


@dataclass
class Summary:
    """The result of an extraction.

    Attributes:
        images: Images of the plan.
        queries: Queries of the plan.
        skipped: Table of the files and queries that the plan skipped.
        reports: The shards extracted in this run.
        quarantined: Every quarantined image of the store, per group.
        seconds: Stage times summed over workers.
        wall: Seconds from the first task to the last commit.
    """

    images: int
    queries: int
    skipped: Any
    reports: list[ShardReport] = field(default_factory=list)
    quarantined: list[Quarantine] = field(default_factory=list)
    wall: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


class Job:
    """The shards of a prepared store that are not committed yet.

    Attributes:
        root: The store.
        config: Its settings, with absolute paths and commits of the hub.
        groups: Groups that some shard lacks.
        memory: Bytes that the models of one worker may take.
        stop: Whether a signal asks to start no further shard.
    """

    def __init__(
        self,
        prepared: PreparedStore,
        todo: Todo,
        summary: Summary,
        *,
        reporter: Reporter,
        stop: Stop,
        require_lock: Callable[[], None],
    ) -> None:
        """Start the log of the run.

        Args:
            prepared: The store.
            todo: Per shard the groups to extract.
            summary: Filled while shards are committed.
            reporter: Receives progress and messages.
            stop: Whether a signal asked to stop.
            require_lock: Raises if another process took the store over.
        """
        workers = prepared.config.workers
        self._prepared, self._todo, self._summary = prepared, todo, summary
        self._reporter, self._require_lock = reporter, require_lock
        self._done = 0
        self.root: Path = prepared.root.resolve()
        self.config: ExtractConfig = prepared.encoders.pinned(
            dataclasses.replace(with_overrides(prepared.manifest), workers=workers)
        )
        self.groups: tuple[Group, ...] = tuple(
            group for group in GROUPS if any(group in lacking for lacking in todo.values())
        )
        self.memory = model_bytes(prepared.encoders, self.groups)
        self.stop = stop
        self._devices = {
            dict(way).get(DEVICE, "")
            for group in self.groups
            for way in prepared.folder.computed(group)
        } - {""}
        self._log = RunLog(prepared.root, lambda folder: record_run(folder, self.config))

    def ledger(self) -> Ledger:
        """Return the shards as tasks."""
        # Bisecting a shard down to one image costs a death per halving, and two for the image.
        halvings = self.config.store.shard_size.bit_length()
        max_deaths = max(self.config.workers.max_consecutive_failures, 2 * halvings + 4)
        return Ledger(self._todo, self._prepared.catalogue.shards, max_deaths)

    @property
    def images(self) -> int:
        """Images of all shards to do."""
        return sum(len(self._prepared.catalogue.images(shard)) for shard in self._todo)

    def require_device(self, device: str) -> None:
        """Accept a kind of device for the shards of this store.

        Args:
            device: As ``device_kind`` returns it.

        Raises:
            StoreMismatchError: If the store has shards of another kind, unless the settings allow
                it.
        """
        others = self._devices - {device}
        if others and self.config.workers.mixed_devices == "refuse":
            raise StoreMismatchError(
                f"extracting into {self.root} on {device}: it has shards of "
                f"{', '.join(sorted(others))}, whose features differ by rounding; continue on that "
                "kind of device, or add --set workers.mixed_devices=allow"
            )
        self._devices.add(device)

    def on_report(self, report: ShardReport) -> None:
        """Note a committed shard."""
        self._require_lock()
        self._done += report.images
        summary = self._summary
        summary.reports.append(report)
        for stage, seconds in report.seconds.items():
            summary.seconds[stage] = summary.seconds.get(stage, 0.0) + seconds
        self._log.append(dataclasses.asdict(report))
        for record in report.quarantined:
            self.message(f"quarantined {record.path}: {record.group}: {record.reason}")
        for group, size in report.smaller_batches.items():
            self.message(f"out of memory: {group} continues with {size} images per batch")
        self.on_progress(0)

    def on_poison(self, poison: Poison) -> None:
        """Quarantine an image that killed its worker."""
        planned = self._prepared.plan.image(poison.image)
        for group in poison.groups:
            self._prepared.folder.quarantine(
                Quarantine(
                    group=group,
                    image_id=planned.image_id,
                    path=str(planned.path),
                    stage="crash",
                    reason="the worker process died on this image",
                )
            )

    def on_progress(self, under_way: int) -> None:
        """Show the progress, given the images done in shards that are not committed yet."""
        self._reporter.progress("extract", self._done + under_way, self.images)

    def message(self, text: str) -> None:
        """Show a line to the user."""
        self._reporter.message(text)


Runner = Callable[[Job, Ledger], None]
