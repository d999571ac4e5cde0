"""Phase 1: prepare the store, extract every missing shard, seal."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from lens_cache.config.extract import ExtractConfig
from lens_cache.datasets.source import Mapper
from lens_cache.errors import ExtractionError, LensCacheError
from lens_cache.extraction.image_reader import CANNOT_BE_READ
from lens_cache.extraction.prepare import PreparedStore, prepare_plan, prepare_store
from lens_cache.plan.plan import Plan
from lens_cache.store.folder import StoreFolder, Todo
from lens_cache.store.layout import GROUPS, Group, shard_images
from lens_cache.store.quarantine import Quarantine
from lens_cache.store.space import require_space
from pipelines.extraction.cost import estimate_cost, missing_bytes
from pipelines.extraction.job import Job, Runner, Summary
from pipelines.interrupt import Stop, stop_on_signals
from pipelines.progress import Reporter


def plan_store(
    root: str | Path, config: ExtractConfig, reporter: Reporter, mapper: Mapper | None = None
) -> Plan:
    """Write only the plan of a store.

    Args:
        root: The store; created if it does not exist.
        config: The settings.
        reporter: Receives progress.
        mapper: Distributes the reading of the data; threads of this process by default.

    Raises:
        LensCacheError: If the data cannot be read, or differs from the store's.
    """
    folder = StoreFolder(root)
    with folder.writing():
        return prepare_plan(
            folder, config, folder.manifest(), progress=reporter.progress, mapper=mapper
        )


def extract(
    root: str | Path,
    config: ExtractConfig,
    reporter: Reporter,
    runner: Runner,
    *,
    mapper: Mapper | None = None,
    replace: tuple[Group, ...] = (),
    retry_quarantined: bool = False,
    force: bool = False,
) -> Summary:
    """Extract everything that the store does not have yet.

    Args:
        root: The store; created if it does not exist.
        config: The settings.
        reporter: Receives progress and messages.
        runner: Extracts the missing shards, on Ray or in this process.
        mapper: Distributes the reading of the data; threads of this process by default.
        replace: Groups to remove and extract again with these settings.
        retry_quarantined: Extract shards with quarantined images again.
        force: Start even if the disk seems too small.

    Raises:
        Interrupted: If SIGINT or SIGTERM stopped it; everything committed is kept.
        LensCacheError: If the extraction cannot start or finish; everything committed is kept.
    """
    folder = StoreFolder(root)
    with (
        stop_on_signals(reporter.message, lambda: _shards_done(folder, config)) as stop,
        folder.writing() as require_lock,
    ):
        prepared = prepare_store(
            folder.root, config, progress=reporter.progress, mapper=mapper, replace=replace
        )
        if retry_quarantined:
            prepared = prepared.reopened()
            folder.forget_quarantined(prepared.catalogue)
        todo = prepared.todo()
        if prepared.manifest.complete and todo:
            prepared = prepared.reopened()
        if not prepared.manifest.complete:  # before the models run: see _finish
            folder.require_shared()
        plan = prepared.plan
        summary = Summary(plan.num_images, plan.num_queries, plan.quarantine)
        if todo:
            _extract_shards(
                prepared,
                todo,
                summary,
                runner,
                reporter=reporter,
                stop=stop,
                require_lock=require_lock,
                force=force,
            )
        require_lock()
        _finish(prepared)
    for group in GROUPS:
        summary.quarantined += folder.quarantined(group).values()
    return summary


def _extract_shards(
    prepared: PreparedStore,
    todo: Todo,
    summary: Summary,
    runner: Runner,
    *,
    reporter: Reporter,
    stop: Stop,
    require_lock: Callable[[], None],
    force: bool,
) -> None:
    """Extract the missing shards and fill the summary."""
    prepared.folder.save_spare_manifest()
    if not force:
        cost = estimate_cost(prepared.encoders, prepared.catalogue)
        require_space(prepared.root, missing_bytes(prepared, cost, todo))
    job = Job(prepared, todo, summary, reporter=reporter, stop=stop, require_lock=require_lock)
    job.on_progress(0)
    began = time.perf_counter()
    before = _unreadable(prepared.folder)
    try:
        runner(job, job.ledger())
    except ExtractionError:
        # Images that this run could not read may only have been out of reach: do not keep that.
        new = _unreadable(prepared.folder) - before
        prepared.folder.forget_quarantined(prepared.catalogue, new)
        raise
    summary.wall = time.perf_counter() - began


def _unreadable(folder: StoreFolder) -> set[Quarantine]:
    """Return the quarantine records of images whose files could not be read."""
    records = {record for group in GROUPS for record in folder.quarantined(group).values()}
    return {record for record in records if record.reason.startswith(CANNOT_BE_READ)}


def _finish(prepared: PreparedStore) -> None:
    """Seal a store if every shard is committed.

    Raises:
        ExtractionError: If a shard is not.
        CorruptShardError: If a file of no shard is not as it was written.
    """
    left = prepared.todo()
    if left:
        raise ExtractionError(
            f"{len(left)} shards of {prepared.root} are not committed; run the same command again"
        )
    if not prepared.manifest.complete:
        prepared.folder.seal(prepared.manifest)


def _shards_done(folder: StoreFolder, config: ExtractConfig) -> str:
    """Return in words how many shards of a store are committed."""
    try:
        plan = folder.plan()
    except LensCacheError:
        return f"{folder.root} is not planned yet"
    total = len(shard_images(plan.num_images, config.store.shard_size))
    return f"{total - len(folder.todo(total))} of {total} shards of {folder.root} are done"
