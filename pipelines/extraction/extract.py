"""Phase 1: plan, prepare, extract every missing shard, seal."""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from lens_cache.config.extract import ExtractConfig
from lens_cache.datasets.source import Mapper
from lens_cache.encoders.resolve import Encoders
from lens_cache.errors import ExtractionError
from lens_cache.extraction.extractor import ShardReport
from lens_cache.extraction.prepare import prepare_frozen, prepare_manifest, prepare_plan
from lens_cache.plan.plan import Plan
from lens_cache.store.commits import SHARED, commit_path, seal_shared_files
from lens_cache.store.io.files import (
    append_line,
    new_folder,
    sweep_temporary,
    write_bytes,
    writer_lock,
)
from lens_cache.store.layout import GROUPS, Group, shard_images
from lens_cache.store.manifest import Manifest, with_overrides
from lens_cache.store.paths import (
    MANIFEST_FILE,
    QUARANTINE_TABLE,
    RUNS_FOLDER,
    SPARE_MANIFEST,
)
from lens_cache.store.quarantine import Quarantine, quarantine_path, quarantined
from pipelines.extraction.dry_run import (
    Todo,
    committed,
    estimate_cost,
    missing_bytes,
    model_bytes,
    require_space,
    shards_to_do,
)
from pipelines.extraction.job import Run, Runner, Summary
from pipelines.extraction.ledger import Ledger, Poison
from pipelines.extraction.set_aside import set_aside_lines
from pipelines.interrupt import Stop, stop_on_signals
from pipelines.progress import Reporter
from pipelines.provenance import record_run


def plan_store(
    root: Path, config: ExtractConfig, reporter: Reporter, mapper: Mapper | None = None
) -> Plan:
    """Write only the plan of a store; ``mapper`` says how the reading is spread."""
    with writer_lock(root):
        sweep_temporary(root)
        plan = prepare_plan(root, config, reporter.progress, mapper)
        sweep_temporary(root)
    return plan


def extract(
    root: Path,
    config: ExtractConfig,
    reporter: Reporter,
    runner: Runner,
    *,
    mapper: Mapper | None = None,
    replace: tuple[Group, ...] = (),
    retry_quarantined: bool = False,
    force: bool = False,
) -> Summary:
    """Bring a store to completion: do whatever of the extraction is not done yet.

    Args:
        root: The store; created if need be.
        config: The settings.
        reporter: Where progress goes.
        runner: Works off the missing shards, on Ray or in this process.
        mapper: How planning is spread; threads of this process if not given.
        replace: Groups to throw away and extract anew with these settings.
        retry_quarantined: Extract shards with quarantined images anew.
        force: Begin even if the disk seems too small.

    Raises:
        Interrupted: If SIGINT or SIGTERM stopped it; everything committed stays.
        LensCacheError: If the extraction cannot begin or cannot end; everything committed stays.
    """
    with (
        stop_on_signals(reporter.message, lambda: committed(root, config)) as stop,
        writer_lock(root) as require_lock,
    ):
        sweep_temporary(root)
        encoders = Encoders.resolve(config)
        plan = prepare_plan(root, config, reporter.progress, mapper)
        manifest, questions = prepare_manifest(root, config, encoders, plan, replace)
        prepare_frozen(root, config, encoders)
        if retry_quarantined:
            _forget_quarantined(root, manifest, plan)
        summary = Summary(
            images=plan.num_images,
            queries=plan.num_queries,
            unplanned=plan.quarantine.num_rows,
            set_aside=set_aside_lines(plan.quarantine, root / QUARANTINE_TABLE),
        )
        todo = shards_to_do(root, plan, config)
        if manifest.complete and (todo or not commit_path(root, SHARED, 0).exists()):
            manifest = dataclasses.replace(manifest, complete=False)
            manifest.save(root)
        if todo:
            write_bytes(root, root / SPARE_MANIFEST, (root / MANIFEST_FILE).read_bytes())
            cost = estimate_cost(encoders, manifest, questions)
            if not force:
                require_space(root, missing_bytes(cost, todo, plan, config))
            settings = dataclasses.replace(with_overrides(manifest), workers=config.workers)
            _run(
                root,
                settings,
                encoders,
                plan,
                todo,
                summary,
                reporter,
                runner,
                stop,
                require_lock,
            )
        require_lock()
        _finish(root, manifest, plan, config)
    for group in GROUPS:
        summary.quarantined += quarantined(root, group).values()
    return summary


def _run(
    root: Path,
    config: ExtractConfig,
    encoders: Encoders,
    plan: Plan,
    todo: Todo,
    summary: Summary,
    reporter: Reporter,
    runner: Runner,
    stop: Stop,
    require_lock: Callable[[], None],
) -> None:
    """Work off the missing shards and keep a log of them."""
    shards = shard_images(plan.num_images, config.store.shard_size)
    total = sum(len(shards[shard]) for shard in todo)
    log = _run_folder(root)
    with new_folder(root, log, last="run.json") as scratch:
        record_run(scratch, config)
    done = 0

    def on_report(report: ShardReport) -> None:
        nonlocal done
        require_lock()
        done += report.images
        summary.reports.append(report)
        for stage, seconds in report.seconds.items():
            summary.seconds[stage] = summary.seconds.get(stage, 0.0) + seconds
        append_line(log / "shards.jsonl", json.dumps(dataclasses.asdict(report)))
        for record in report.quarantined:
            reporter.message(f"quarantined {record.path}: {record.group}: {record.reason}")
        for group, size in report.smaller_batches.items():
            reporter.message(f"memory ran out: {group} goes on with {size} images per batch")
        reporter.progress("extract", done, total)

    def on_poison(poison: Poison) -> None:
        planned = plan.image(poison.image)
        for group in poison.groups:
            Quarantine(
                group=group,
                image_id=planned.image_id,
                path=str(planned.path),
                stage="crash",
                reason="the worker process died on this image",
            ).save(root)

    groups = tuple(group for group in GROUPS if any(group in wanted for wanted in todo.values()))
    run = Run(
        root=root.resolve(),
        config=config,
        groups=groups,
        memory=model_bytes(encoders, groups),
        on_report=on_report,
        on_poison=on_poison,
        on_progress=lambda under_way: reporter.progress("extract", done + under_way, total),
        message=reporter.message,
        stop=stop,
    )
    reporter.progress("extract", 0, total)
    began = time.perf_counter()
    # Halving a shard down to one image costs a death per halving, and two for the image itself.
    halvings = config.store.shard_size.bit_length()
    max_deaths = max(config.workers.max_consecutive_failures, 2 * halvings + 4)
    runner(run, Ledger(todo, shards, max_deaths))
    summary.wall = time.perf_counter() - began


def _forget_quarantined(root: Path, manifest: Manifest, plan: Plan) -> None:
    """Forget quarantined images, and the commits of the shards that lack them."""
    dataclasses.replace(manifest, complete=False).save(root)
    ids = plan.images["image_id"].to_pylist()
    place = {image_id: index for index, image_id in enumerate(ids)}
    shard_size = manifest.config["store"]["shard_size"]
    for group in GROUPS:
        for image_id in quarantined(root, group):
            commit_path(root, group, place[image_id] // shard_size).unlink(missing_ok=True)
            quarantine_path(root, group, image_id).unlink()


def _finish(root: Path, manifest: Manifest, plan: Plan, config: ExtractConfig) -> None:
    """Seal a store whose every shard is committed."""
    left = shards_to_do(root, plan, config)
    if left:
        raise ExtractionError(
            f"{len(left)} shards of {root} are not committed; run the same command again"
        )
    if not manifest.complete:
        seal_shared_files(root)
        dataclasses.replace(manifest, complete=True).save(root)
    sweep_temporary(root)


def _run_folder(root: Path) -> Path:
    """Return a new folder for this run's records, the only part of a store that holds times."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    return root / RUNS_FOLDER / f"{stamp}-{uuid.uuid4().hex[:8]}"
