"""A store of random features, without the frozen parts, which reading does not need."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from lens_cache.config.fields import StoreFormat
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.images import masks
from lens_cache.plan.plan import Plan
from lens_cache.plan.schema import IMAGES, QUARANTINE, QUERIES
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.folder import StoreFolder
from lens_cache.store.formats import open_writers
from lens_cache.store.layout import (
    GROUPS,
    array_name,
    hidden_state_arrays,
    image_embedding_array,
    shard_images,
)
from lens_cache.store.manifest import Manifest, PlanSummary
from lens_cache.store.questions import Questions
from lens_cache.store.values import plain_bytes
from lens_cache.version import __version__
from pipelines.benchmark.random_features import RandomFeatures, RecordSizes

LAYER = 14
_PREFIX = 35  # tokens of the prompt before the image
_SIDE = 64  # of the images in the plan
_SPLIT = "train"


def write_store(
    root: Path, features: RandomFeatures, format: StoreFormat, *, shard_size: int
) -> None:
    """Write a store as an extraction does, with flushed and committed shards."""
    plan = _plan(features)
    shards = shard_images(features.images, shard_size)
    token_ids = [np.zeros(n, np.int32) for lengths in features.lengths for n in lengths]
    questions = Questions.for_plan(plan, token_ids, shard_size)
    manifest = _manifest(features, plan, questions, len(shards), shard_size).in_format(format)
    catalogue = Catalogue(manifest, plan, questions)
    folder = StoreFolder(root)
    folder.save_plan(plan, {})
    folder.save_frozen(_no_weights(features.sizes))
    folder.describe(catalogue)
    for shard in range(len(shards)):
        _write_shard(root, catalogue, features, shard)
    replace(manifest, complete=True).save(root)


def _no_weights(sizes: RecordSizes) -> FrozenParts:
    """Return frozen parts without weights: no model is built from this store."""
    sam = SamArchitecture(
        image_size=16 * sizes.side,
        patch_size=16,
        embed_dim=sizes.channels,
        depth=1,
        num_heads=1,
        window_size=0,
        global_blocks=(0,),
        transformer_dim=sizes.channels,
        decoder_depth=2,
        decoder_mlp_dim=sizes.channels,
        mask_in_chans=16,
        num_multimask_outputs=3,
        iou_head_depth=3,
        iou_head_hidden_dim=sizes.channels,
    )
    return FrozenParts(
        text_config={},
        grid=(1, sizes.image_tokens),
        sam_architecture=sam,
        decoder_layers={},
        sam={},
    )


def _write_shard(root: Path, catalogue: Catalogue, features: RandomFeatures, shard: int) -> None:
    with open_writers(root, catalogue, shard, GROUPS) as writers:
        states, embeddings = writers["hidden_states"], writers["image_embeddings"]
        if shard == 0:
            for name, spec in catalogue.prefixes("hidden_states").items():
                states.add_prefix(name, bytes(spec.chunk_bytes))
        for image in catalogue.images(shard):
            image_id, parts = catalogue.image_id(image), features.record(image).parts()
            states.add(
                image_id,
                {
                    array_name(LAYER, part): plain_bytes(parts[part])
                    for part in ("image_tokens", "text_tokens")
                },
            )
            embeddings.add(image_id, {"image_embeddings": plain_bytes(parts["image_embedding"])})
        for writer in writers.values():
            writer.commit({})


def _plan(features: RandomFeatures) -> Plan:
    """Return a plan with as many images and questions as there are features."""
    target = masks.encode(np.ones((_SIDE, _SIDE), np.bool_))["counts"]
    images = [
        {
            "image_id": _image_id(image),
            "path": f"{image}.jpg",
            "paths": [f"{image}.jpg"],
            "width": _SIDE,
            "height": _SIDE,
            "datasets": ["random"],
        }
        for image in range(features.images)
    ]
    queries = [
        {
            "query_id": f"{image:032x}{number:08x}",
            "image_index": image,
            "image_id": _image_id(image),
            "dataset": "random",
            "split": _SPLIT,
            "instruction": f"thing {number}",
            "question": f"Where is thing {number}?",
            "kind": "class",
            "length": "short",
            "topic": "",
            "target": target,
            "ignore": None,
        }
        for image in range(features.images)
        for number in range(features.sizes.questions)
    ]
    return Plan(
        images=pa.Table.from_pylist(images, IMAGES),
        queries=pa.Table.from_pylist(queries, QUERIES),
        quarantine=pa.Table.from_pylist([], QUARANTINE),
    )


def _image_id(image: int) -> str:
    return f"{image:032x}"


def _manifest(
    features: RandomFeatures, plan: Plan, questions: Questions, num_shards: int, shard_size: int
) -> Manifest:
    sizes = features.sizes
    states = hidden_state_arrays(
        LAYER,
        num_images=features.images,
        num_shards=num_shards,
        shard_size=shard_size,
        region=questions.region,
        num_prefix=_PREFIX,
        num_image_tokens=sizes.image_tokens,
        hidden_size=sizes.hidden_size,
        dtype="bfloat16",
    )
    embeddings = image_embedding_array(
        num_images=features.images,
        shard_size=shard_size,
        channels=sizes.channels,
        size=sizes.side,
        dtype="bfloat16",
    )
    return Manifest(
        code_version=__version__,
        complete=False,
        config={"store": {"shard_size": shard_size}},
        plan=PlanSummary(
            digest=plan.digest(),
            images=plan.num_images,
            queries=plan.num_queries,
            quarantined=0,
        ),
        side=_SIDE,
        fingerprints={"hidden_states": {"layers": [LAYER]}, "image_embeddings": {}},
        arrays={
            "hidden_states": states,
            "image_embeddings": {"image_embeddings": embeddings},
        },
    )
