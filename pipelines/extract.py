"""Phase 1: plan, prepare, extract every missing shard, seal."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lens_cache.config import ExtractConfig
from lens_cache.encoders.llava_weights import vision_config
from lens_cache.errors import ExtractionError, StoreError
from lens_cache.estimate import Estimate, estimate
from lens_cache.extraction import ShardExtractor, ShardReport
from lens_cache.plan import Plan, build_plan
from lens_cache.preparation import (
    Encoders,
    describe,
    prepare_frozen,
    prepare_manifest,
    prepare_plan,
    tokenise,
    with_overrides,
)
from lens_cache.store.commits import (
    SHARED,
    Quarantine,
    commit_path,
    quarantined,
    seal_shared_files,
)
from lens_cache.store.files import sweep_temporary, writer_lock
from lens_cache.store.layout import GROUPS, Group, Questions
from lens_cache.store.manifest import Manifest
from lens_cache.store.reader import PLAN_FOLDER, missing_shards, shard_images
from pipelines.ledger import Ledger, Poison
from pipelines.provenance import record_run

# Room that must stay free on the disk beside the features.
_MARGIN_BYTES = 64 << 20


class Reporter(Protocol):
    """Where an extraction tells what it does."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far a step is."""

    def message(self, text: str) -> None:
        """Show one line."""


@dataclass
class Summary:
    """What an extraction did.

    Attributes:
        images: Images of the plan.
        queries: Queries of the plan.
        reports: The shards extracted in this run.
        quarantined: Every quarantined image of the store, per group.
        unplanned: Files and queries that the plan itself set aside.
        seconds: Stage times summed over workers.
        wall: Seconds from the first task to the last commit.
    """

    images: int
    queries: int
    reports: list[ShardReport] = field(default_factory=list)
    quarantined: list[Quarantine] = field(default_factory=list)
    unplanned: int = 0
    wall: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DryRun:
    """What an extraction would do.

    Attributes:
        plan: The plan, as it is stored or would be.
        files: Image files that the plan's images stand for.
        estimate: Its cost.
        missing_bytes: Feature bytes not yet written.
        free_bytes: Free bytes where the store lies.
        shards: Shards not yet committed, per group.
    """

    plan: Plan
    files: int
    estimate: Estimate
    missing_bytes: int
    free_bytes: int
    shards: dict[str, int]


Runner = Callable[["Run", Ledger], None]


@dataclass(frozen=True)
class Run:
    """An extraction under way: what a runner needs to work off the ledger.

    Attributes:
        root: The prepared store.
        config: Its settings with absolute paths.
        groups: Groups that some shard still lacks.
        memory: Bytes that the models of one worker may take.
        on_report: Called with each committed shard.
        on_poison: Called with each image that killed its worker.
        on_progress: Called with the number of images done in shards still under way.
    """

    root: Path
    config: ExtractConfig
    groups: tuple[Group, ...]
    memory: int
    on_report: Callable[[ShardReport], None]
    on_poison: Callable[[Poison], None]
    on_progress: Callable[[int], None]


def plan_store(root: Path, config: ExtractConfig, reporter: Reporter) -> Plan:
    """Write only the plan of a store."""
    with writer_lock(root):
        sweep_temporary(root)
        plan = prepare_plan(root, config, reporter.progress)
        sweep_temporary(root)
    return plan


def extract(
    root: Path,
    config: ExtractConfig,
    reporter: Reporter,
    runner: Runner,
    *,
    replace: tuple[Group, ...] = (),
) -> Summary:
    """Bring a store to completion: do whatever of the extraction is not done yet.

    Args:
        root: The store; created if need be.
        config: The settings.
        reporter: Where progress goes.
        runner: Works off the missing shards, on Ray or in this process.
        replace: Groups to throw away and extract anew with these settings.

    Raises:
        LensCacheError: If the extraction cannot begin or cannot end; everything committed stays.
    """
    with writer_lock(root):
        sweep_temporary(root)
        encoders = Encoders.resolve(config)
        plan = prepare_plan(root, config, reporter.progress)
        manifest, questions = prepare_manifest(root, config, encoders, plan, replace)
        prepare_frozen(root, config, encoders)
        summary = Summary(
            images=plan.num_images,
            queries=plan.num_queries,
            unplanned=plan.quarantine.num_rows,
        )
        todo = _todo(root, plan, config)
        if manifest.complete and (todo or not commit_path(root, SHARED, 0).exists()):
            manifest = dataclasses.replace(manifest, complete=False)
            manifest.save(root)
        if todo:
            cost = _cost(config, encoders, manifest, questions)
            _require_space(root, _missing_bytes(cost, todo, plan, config))
            settings = dataclasses.replace(with_overrides(manifest), workers=config.workers)
            _run(root, settings, encoders, plan, todo, summary, reporter, runner)
        _finish(root, manifest, plan, config)
    for group in GROUPS:
        summary.quarantined += quarantined(root, group).values()
    return summary


def dry_run(root: Path, config: ExtractConfig, reporter: Reporter) -> DryRun:
    """Count what an extraction would cost, and write nothing.

    Raises:
        LensCacheError: If data or checkpoints cannot be found, as ``extract`` would.
    """
    encoders = Encoders.resolve(config)
    folder = root / PLAN_FOLDER
    plan = (
        Plan.load(folder)
        if folder.exists()
        else build_plan(
            config.data, progress=lambda done, total: reporter.progress("plan", done, total)
        )
    )
    questions = tokenise(plan, encoders.prompt, config.store.shard_size)
    cost = _cost(config, encoders, describe(config, encoders, plan, questions), questions)
    todo = _todo(root, plan, config)
    existing = next(folder for folder in [root, *root.absolute().parents] if folder.exists())
    return DryRun(
        plan=plan,
        files=sum(len(plan.image(image).paths) for image in range(plan.num_images)),
        estimate=cost,
        missing_bytes=_missing_bytes(cost, todo, plan, config),
        free_bytes=shutil.disk_usage(existing).free,
        shards={group: sum(group in groups for groups in todo.values()) for group in GROUPS},
    )


def run_in_process(run: Run, ledger: Ledger) -> None:
    """Work off the ledger in this process, without Ray."""
    extractor = ShardExtractor(run.root, run.config, run.groups, "cpu")
    while (task := ledger.next()) is not None:
        run.on_report(extractor.extract(task.shard, task.groups))
        ledger.done(task)


def on_ray(address: str | None) -> Runner:
    """Return a runner that works on a Ray cluster, or on this machine's own."""

    def runner(run: Run, ledger: Ledger) -> None:
        from pipelines.ray_pool import run_on_ray

        run_on_ray(run, ledger, address)

    return runner


def _run(
    root: Path,
    config: ExtractConfig,
    encoders: Encoders,
    plan: Plan,
    todo: dict[int, tuple[Group, ...]],
    summary: Summary,
    reporter: Reporter,
    runner: Runner,
) -> None:
    """Work off the missing shards and keep a log of them."""
    shards = shard_images(plan.num_images, config.store.shard_size)
    total = sum(len(shards[shard]) for shard in todo)
    log = _run_folder(root)
    record_run(log, config)
    done = 0

    def on_report(report: ShardReport) -> None:
        nonlocal done
        done += report.images
        summary.reports.append(report)
        for stage, seconds in report.seconds.items():
            summary.seconds[stage] = summary.seconds.get(stage, 0.0) + seconds
        with (log / "shards.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(report)) + "\n")
        for record in report.quarantined:
            reporter.message(f"quarantined {record.path}: {record.group}: {record.reason}")
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
        memory=_model_bytes(encoders, groups),
        on_report=on_report,
        on_poison=on_poison,
        on_progress=lambda under_way: reporter.progress("extract", done + under_way, total),
    )
    reporter.progress("extract", 0, total)
    began = time.perf_counter()
    runner(run, Ledger(todo, shards, config.workers.max_consecutive_failures))
    summary.wall = time.perf_counter() - began


def _finish(root: Path, manifest: Manifest, plan: Plan, config: ExtractConfig) -> None:
    """Seal a store whose every shard is committed."""
    left = _todo(root, plan, config)
    if left:
        raise ExtractionError(
            f"{len(left)} shards of {root} are not committed; run the same command again"
        )
    if not manifest.complete:
        seal_shared_files(root)
        dataclasses.replace(manifest, complete=True).save(root)
    sweep_temporary(root)


def _todo(root: Path, plan: Plan, config: ExtractConfig) -> dict[int, tuple[Group, ...]]:
    """Return the groups that each shard still lacks; only shards that lack one."""
    num_shards = len(shard_images(plan.num_images, config.store.shard_size))
    missing = {group: set(shards) for group, shards in missing_shards(root, num_shards).items()}
    lacks = {
        shard: tuple(group for group in GROUPS if shard in missing[group])
        for shard in range(num_shards)
    }
    return {shard: groups for shard, groups in lacks.items() if groups}


def _cost(
    config: ExtractConfig, encoders: Encoders, manifest: Manifest, questions: Questions
) -> Estimate:
    return estimate(
        manifest,
        questions,
        vision_config=vision_config(encoders.llava),
        text_config=encoders.text_config,
        sam_architecture=encoders.sam_architecture,
    )


def _missing_bytes(
    cost: Estimate, todo: dict[int, tuple[Group, ...]], plan: Plan, config: ExtractConfig
) -> int:
    """Return the feature bytes of the shards still to do, in proportion to their images."""
    shards = shard_images(plan.num_images, config.store.shard_size)
    return sum(
        int(cost.feature_bytes[group] * len(shards[shard]) / plan.num_images)
        for shard, groups in todo.items()
        for group in groups
    )


def _require_space(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed + _MARGIN_BYTES > free:
        raise StoreError(
            f"extracting to {root}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are "
            "free; make room, or choose another disk"
        )


def _model_bytes(encoders: Encoders, groups: tuple[Group, ...]) -> int:
    """Return what a worker's models may take: their checkpoint files and half as much again."""
    size = 0
    if "hidden_states" in groups:
        size += sum(file.stat().st_size for file in encoders.llava.glob("*.safetensors"))
    if "image_embeddings" in groups:
        size += encoders.sam.stat().st_size
    return size * 3 // 2 + (512 << 20)


def _run_folder(root: Path) -> Path:
    """Return a new folder for this run's records, the only part of a store that holds times."""
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    name, count = stamp, 1
    while (root / "runs" / name).exists():
        count += 1
        name = f"{stamp}-{count}"
    return root / "runs" / name
