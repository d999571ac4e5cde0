"""What is still to be extracted, and what it will cost."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from lens_cache.config.extract import ExtractConfig
from lens_cache.datasets.source import Mapper
from lens_cache.encoders.llava_checkpoint import vision_config
from lens_cache.encoders.resolve import Encoders
from lens_cache.errors import LensCacheError, StoreError
from lens_cache.extraction.estimate import Estimate, estimate
from lens_cache.extraction.prepare import PLAN_SETTINGS, describe, require_same_store, tokenise
from lens_cache.plan.build import build_plan
from lens_cache.plan.plan import Plan
from lens_cache.store.commits import missing_shards
from lens_cache.store.io.files import has_folder
from lens_cache.store.io.remote import is_remote, plain_errors
from lens_cache.store.layout import GROUPS, Group, Questions, shard_images
from lens_cache.store.manifest import Manifest
from lens_cache.store.paths import PLAN_FOLDER
from pipelines.progress import Reporter

# Room that must stay free on the disk beside the features.
_MARGIN_BYTES = 64 << 20

Todo = dict[int, tuple[Group, ...]]


@dataclass(frozen=True)
class DryRun:
    """What an extraction would do.

    Attributes:
        plan: The plan, as it is stored or would be.
        files: Image files that the plan's images stand for.
        estimate: Its cost.
        num_shards: Shards in all.
        missing_images: Images of shards that lack a group.
        missing_flops: Operations not yet done.
        worker_bytes: Memory that the models of one worker may take.
        missing_bytes: Feature bytes not yet written.
        free_bytes: Free bytes where the store lies; nothing for a URL, which does not say.
        fits: Whether there is room for what is missing; nothing for a URL.
        shards: Shards not yet committed, per group.
    """

    plan: Plan
    files: int
    estimate: Estimate
    num_shards: int
    missing_images: int
    missing_flops: float
    worker_bytes: int
    missing_bytes: int
    free_bytes: int | None
    fits: bool | None
    shards: dict[str, int]


def dry_run(
    root: Path, config: ExtractConfig, reporter: Reporter, mapper: Mapper | None = None
) -> DryRun:
    """Count what an extraction would cost, and write nothing.

    Raises:
        LensCacheError: If it would be refused: data or checkpoints not found, or other settings
            than the store's.
    """
    with plain_errors(root, "reading the store"):
        return _dry_run(root, config, reporter, mapper)


def _dry_run(
    root: Path, config: ExtractConfig, reporter: Reporter, mapper: Mapper | None
) -> DryRun:
    encoders = Encoders.resolve(config)
    plan = (
        Plan.load(root / PLAN_FOLDER)
        if has_folder(root / PLAN_FOLDER, last=PLAN_SETTINGS)
        else build_plan(config.data, progress=reporter.progress, mapper=mapper)
    )
    questions = tokenise(plan, encoders.prompt, config.store.shard_size)
    manifest = describe(config, encoders, plan, questions)
    require_same_store(root, config, manifest, plan)
    cost = estimate_cost(encoders, manifest, questions)
    todo = shards_to_do(root, plan, config)
    missing, free = missing_bytes(cost, todo, plan, config), _free_bytes(root)
    shards = shard_images(plan.num_images, config.store.shard_size)
    flops = {"hidden_states": cost.llava_flops, "image_embeddings": cost.sam_flops}
    return DryRun(
        plan=plan,
        files=sum(len(plan.image(image).paths) for image in range(plan.num_images)),
        estimate=cost,
        num_shards=len(shards),
        missing_images=sum(len(shards[shard]) for shard in todo),
        missing_flops=sum(
            flops[group] * len(shards[shard]) / plan.num_images
            for shard, groups in todo.items()
            for group in groups
        ),
        worker_bytes=model_bytes(encoders, GROUPS),
        missing_bytes=missing,
        free_bytes=free,
        fits=None if free is None else missing + _MARGIN_BYTES <= free,
        shards={group: sum(group in groups for groups in todo.values()) for group in GROUPS},
    )


def shards_to_do(root: Path, plan: Plan, config: ExtractConfig) -> Todo:
    """Return the groups that each shard still lacks; only shards that lack one."""
    num_shards = len(shard_images(plan.num_images, config.store.shard_size))
    missing = {group: set(shards) for group, shards in missing_shards(root, num_shards).items()}
    lacks = {
        shard: tuple(group for group in GROUPS if shard in missing[group])
        for shard in range(num_shards)
    }
    return {shard: groups for shard, groups in lacks.items() if groups}


def committed(root: Path, config: ExtractConfig) -> str:
    """Return in words how many shards of a store are done."""
    try:
        plan = Plan.load(root / PLAN_FOLDER)
    except LensCacheError:
        return f"{root} is not planned yet"
    total = len(shard_images(plan.num_images, config.store.shard_size))
    return f"{total - len(shards_to_do(root, plan, config))} of {total} shards of {root} are done"


def estimate_cost(encoders: Encoders, manifest: Manifest, questions: Questions) -> Estimate:
    """Count bytes and operations of the whole extraction."""
    return estimate(
        manifest,
        questions,
        vision_config=vision_config(encoders.llava),
        text_config=encoders.text_config,
        sam_architecture=encoders.sam_architecture,
    )


def missing_bytes(cost: Estimate, todo: Todo, plan: Plan, config: ExtractConfig) -> int:
    """Return the feature bytes of the shards still to do, in proportion to their images."""
    shards = shard_images(plan.num_images, config.store.shard_size)
    return sum(
        int(cost.feature_bytes[group] * len(shards[shard]) / plan.num_images)
        for shard, groups in todo.items()
        for group in groups
    )


def require_space(root: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold; what is behind a URL does not say.

    Raises:
        StoreError: If fewer bytes are free than needed, with a margin.
    """
    free = _free_bytes(root)
    if free is not None and needed + _MARGIN_BYTES > free:
        raise StoreError(
            f"writing to {root}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are "
            "free; make room or choose another disk (`extract --force` begins all the same)"
        )


def model_bytes(encoders: Encoders, groups: tuple[Group, ...]) -> int:
    """Return what a worker's models may take: their checkpoint files and half as much again."""
    size = 0
    if "hidden_states" in groups:
        size += sum(file.stat().st_size for file in encoders.llava.glob("*.safetensors"))
    if "image_embeddings" in groups:
        size += encoders.sam.stat().st_size
    return size * 3 // 2 + (512 << 20)


def _free_bytes(root: Path) -> int | None:
    if is_remote(root):
        return None
    existing = next(folder for folder in [root, *root.absolute().parents] if folder.exists())
    return shutil.disk_usage(existing).free
