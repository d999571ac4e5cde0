"""What an extraction would do and cost, without writing anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lens_cache.config.extract import ExtractConfig
from lens_cache.datasets.source import Mapper
from lens_cache.extraction.estimate import Estimate
from lens_cache.extraction.prepare import prepare_store
from lens_cache.plan.plan import Plan
from lens_cache.store.io.remote import plain_errors, store_path
from lens_cache.store.layout import GROUPS
from lens_cache.store.space import fits, free_bytes
from pipelines.extraction.cost import estimate_cost, missing_bytes, missing_flops, model_bytes
from pipelines.progress import Reporter


@dataclass(frozen=True)
class DryRun:
    """What an extraction would do.

    Attributes:
        plan: The plan, as it is stored or would be.
        files: Image files of the plan; several may have the same content and be one image.
        estimate: The cost of the whole extraction.
        num_shards: Shards in all.
        missing_images: Images of shards that lack a group.
        missing_flops: Operations not yet done.
        worker_bytes: Memory that the models of one worker may take.
        missing_bytes: Feature bytes not yet written.
        free_bytes: Free bytes on the store's disk; None behind a URL, where it is not known.
        fits: Whether there is room for ``missing_bytes``; None behind a URL.
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
    root: str | Path, config: ExtractConfig, reporter: Reporter, mapper: Mapper | None = None
) -> DryRun:
    """Count what an extraction would cost; writes nothing.

    Args:
        root: The store; it need not exist.
        config: The settings.
        reporter: Receives the progress of planning.
        mapper: Distributes the reading of the data; threads of this process by default.

    Raises:
        LensCacheError: If an extraction would be refused: data or checkpoints not found, or
            settings that differ from the store's.
    """
    root = store_path(root)
    with plain_errors(root, "reading the store"):
        prepared = prepare_store(
            root, config, progress=reporter.progress, mapper=mapper, write=False
        )
        todo = prepared.todo()
    plan, catalogue = prepared.plan, prepared.catalogue
    cost = estimate_cost(prepared.encoders, catalogue)
    missing = missing_bytes(prepared, cost, todo)
    return DryRun(
        plan=plan,
        files=sum(len(plan.image(image).paths) for image in range(plan.num_images)),
        estimate=cost,
        num_shards=catalogue.num_shards,
        missing_images=sum(len(catalogue.images(shard)) for shard in todo),
        missing_flops=missing_flops(prepared, cost, todo),
        worker_bytes=model_bytes(prepared.encoders, GROUPS),
        missing_bytes=missing,
        free_bytes=free_bytes(prepared.root),
        fits=fits(prepared.root, missing),
        shards={group: sum(group in groups for groups in todo.values()) for group in GROUPS},
    )
