"""Bytes and operations of an extraction, and of the part of it that is still to do."""

from __future__ import annotations

from lens_cache.encoders.llava_checkpoint import vision_config
from lens_cache.encoders.resolve import Encoders
from lens_cache.extraction.estimate import Estimate, estimate
from lens_cache.extraction.prepare import PreparedStore
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.folder import Todo
from lens_cache.store.layout import Group


def estimate_cost(encoders: Encoders, catalogue: Catalogue) -> Estimate:
    """Count bytes and operations of the whole extraction."""
    return estimate(
        catalogue.manifest,
        catalogue.questions,
        vision_config=vision_config(encoders.llava),
        text_config=encoders.text_config,
        sam_architecture=encoders.sam_architecture,
    )


def missing_bytes(prepared: PreparedStore, cost: Estimate, todo: Todo) -> int:
    """Return the feature bytes of the shards still to do, in proportion to their images."""
    catalogue = prepared.catalogue
    return sum(
        int(cost.feature_bytes[group] * len(catalogue.images(shard)) / prepared.plan.num_images)
        for shard, groups in todo.items()
        for group in groups
    )


def missing_flops(prepared: PreparedStore, cost: Estimate, todo: Todo) -> float:
    """Return the operations of the shards still to do, in proportion to their images."""
    catalogue = prepared.catalogue
    flops: dict[Group, float] = {
        "hidden_states": cost.llava_flops,
        "image_embeddings": cost.sam_flops,
    }
    return sum(
        flops[group] * len(catalogue.images(shard)) / prepared.plan.num_images
        for shard, groups in todo.items()
        for group in groups
    )


def model_bytes(encoders: Encoders, groups: tuple[Group, ...]) -> int:
    """Return the memory that a worker's models may take: 1.5 times their files and 512 MiB."""
    size = 0
    if "hidden_states" in groups:
        size += sum(file.stat().st_size for file in encoders.llava.glob("*.safetensors"))
    if "image_embeddings" in groups:
        size += encoders.sam.stat().st_size
    return size * 3 // 2 + (512 << 20)
