"""Everything of a store that is decided before a model runs: plan, manifest, layout, frozen parts.

Each step is a pure function of data and settings and is skipped where its result already lies in
the store, so that a run killed at any moment is continued by running it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import lens_cache
from lens_cache.config.data import DataConfig
from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import parse_config, to_tree
from lens_cache.datasets.source import Mapper
from lens_cache.encoders import llava_checkpoint as llava_weights
from lens_cache.encoders import sam_checkpoint
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.resolve import Encoders
from lens_cache.errors import StoreError, StoreMismatchError
from lens_cache.features.frozen_parts import CONFIG_FILE, FrozenParts
from lens_cache.plan.build import build_plan
from lens_cache.plan.plan import Plan
from lens_cache.store.commits import committed_shards
from lens_cache.store.formats import write_array_metadata
from lens_cache.store.io.files import (
    has_folder,
    new_folder,
    read_json,
    remove_folder,
    sealed,
    write_bytes,
)
from lens_cache.store.layout import (
    GROUPS,
    QUESTIONS_FILE,
    ArraySpec,
    Group,
    Questions,
    hidden_state_arrays,
    image_embedding_array,
    shard_images,
)
from lens_cache.store.manifest import Manifest, require_same
from lens_cache.store.paths import FROZEN_FOLDER, MANIFEST_FILE, PLAN_FOLDER

# The settings a plan was made with, beside its tables.
PLAN_SETTINGS = "settings.json"

Progress = Callable[[str, int, int], None]


def prepare_plan(
    root: Path, config: ExtractConfig, progress: Progress, mapper: Mapper | None = None
) -> Plan:
    """Load the store's plan, or build and save it; ``mapper`` says how the reading is spread.

    Raises:
        StoreMismatchError: If the store was planned from other data settings.
    """
    folder, moved = root / PLAN_FOLDER, False
    planned = has_folder(folder, last=PLAN_SETTINGS)
    if (root / MANIFEST_FILE).exists() or planned:
        moved = _require_same_data(root, config)
    if not planned:
        plan = build_plan(config.data, progress=progress, mapper=mapper)
        with new_folder(root, folder, last=PLAN_SETTINGS) as scratch:
            plan.save(scratch)
            (scratch / PLAN_SETTINGS).write_bytes(sealed(_absolute(config)["data"]))
        return plan
    plan = Plan.load(folder)
    if moved:
        found = build_plan(config.data, progress=progress, mapper=mapper)
        _require_same_plan(root, plan.digest(), plan.num_images, plan.num_queries, found)
    return plan


def prepare_manifest(
    root: Path,
    config: ExtractConfig,
    encoders: Encoders,
    plan: Plan,
    replace_groups: tuple[Group, ...],
) -> tuple[Manifest, Questions]:
    """Write manifest, question table and Zarr metadata, or check them against the settings.

    Args:
        root: The store.
        config: The settings asked for.
        encoders: The models they name.
        plan: The store's plan.
        replace_groups: Groups to throw away and extract anew with the new settings.

    Raises:
        StoreMismatchError: If a group was extracted with other settings and is not replaced, or
            the plan is another one.
    """
    questions = tokenise(plan, encoders.prompt, config.store.shard_size)
    manifest = describe(config, encoders, plan, questions)
    require_same_store(root, config, manifest, plan, replace_groups)
    if (root / MANIFEST_FILE).exists():
        stored = Manifest.load(root)
        if replace_groups:
            # Incomplete first: no reader may take what is being thrown away for whole.
            replace(stored, complete=False).save(root)
            for group in replace_groups:
                _discard(root, group)
        elif replace(stored, complete=False) == manifest:
            manifest = stored
    manifest.save(root)
    write_bytes(root, root / QUESTIONS_FILE, questions.to_bytes())
    write_array_metadata(root, manifest)
    return manifest, questions


def prepare_frozen(root: Path, config: ExtractConfig, encoders: Encoders) -> None:
    """Export what phase 2 needs of the frozen models, unless it is there."""
    if has_folder(root / FROZEN_FOLDER, last=CONFIG_FILE):
        return
    grid = encoders.prompt.grid
    parts = FrozenParts(
        text_config=encoders.text_config,
        grid=grid,
        sam_architecture=encoders.sam_architecture,
        decoder_layers=llava_weights.decoder_layer_weights(
            encoders.llava, config.encoders.llava.layers
        ),
        sam=sam_checkpoint.prompt_and_decoder_weights(encoders.sam),
    )
    with new_folder(root, root / FROZEN_FOLDER, last=CONFIG_FILE) as scratch:
        parts.save(scratch)


def tokenise(plan: Plan, prompt: LlavaPrompt, shard_size: int) -> Questions:
    """Tokenise every query of the plan and place its tokens."""
    token_ids = [
        np.asarray(prompt.token_ids(query.question).text_ids, dtype=np.int32)
        for image in range(plan.num_images)
        for query in plan.queries_of(image)
    ]
    shards = [
        range(plan.query_range(images[0]).start, plan.query_range(images[-1]).stop)
        for images in shard_images(plan.num_images, shard_size)
    ]
    return Questions.lay_out(token_ids, shards)


def describe(
    config: ExtractConfig, encoders: Encoders, plan: Plan, questions: Questions
) -> Manifest:
    """Return the manifest of a store that has yet to be extracted."""
    prompt, architecture = encoders.prompt, encoders.sam_architecture
    num_shards = len(shard_images(plan.num_images, config.store.shard_size))
    states: dict[str, ArraySpec] = {}
    for layer in config.encoders.llava.layers:
        arrays = hidden_state_arrays(
            layer,
            num_images=plan.num_images,
            num_shards=num_shards,
            shard_size=config.store.shard_size,
            region=questions.region,
            num_prefix=len(prompt.prefix_ids),
            num_image_tokens=prompt.num_image_tokens,
            hidden_size=int(encoders.text_config["hidden_size"]),
            dtype=config.encoders.llava.dtype,
        )
        states |= {f"layer_{layer}/{name}": spec for name, spec in arrays.items()}
    embeddings = image_embedding_array(
        num_images=plan.num_images,
        shard_size=config.store.shard_size,
        channels=architecture.transformer_dim,
        size=architecture.embedding_size,
        dtype=config.encoders.sam.dtype,
    )
    settings = _absolute(config)
    made = Manifest(
        code_version=lens_cache.__version__,
        complete=False,
        config={key: settings[key] for key in ("data", "encoders", "store")},
        plan={
            "digest": plan.digest(),
            "images": plan.num_images,
            "queries": plan.num_queries,
            "quarantined": plan.quarantine.num_rows,
        },
        side=encoders.side,
        fingerprints=encoders.fingerprints,
        arrays={"hidden_states": states, "image_embeddings": {"image_embeddings": embeddings}},
    )
    return made.in_precision(config.store.precision).in_format(config.store.format)


def require_same_store(
    root: Path,
    config: ExtractConfig,
    wanted: Manifest,
    plan: Plan,
    replaced: tuple[Group, ...] = (),
) -> None:
    """Refuse settings, a plan or models that differ from the store's (invariant I5).

    Args:
        root: The store; nothing is compared if it has no manifest yet.
        config: The settings asked for.
        wanted: The manifest they lead to.
        plan: The plan that lies in the store.
        replaced: Groups that will be extracted anew, so may differ.

    Raises:
        StoreMismatchError: If something differs; the message names it and says what to run.
        StoreError: If the store has lost its manifest.
    """
    if not (root / MANIFEST_FILE).exists():
        if any(committed_shards(root, group) for group in GROUPS):
            raise StoreError(
                f"opening the store {root}: it holds shards but no {MANIFEST_FILE}, so nothing "
                "says what they are; put it back, or extract into a new store"
            )
        return
    stored = Manifest.load(root)
    _require_same_data(root, config)
    known = stored.plan
    _require_same_plan(root, known["digest"], known["images"], known["queries"], plan)
    for group in GROUPS:
        if group not in replaced:
            require_same(
                root,
                f"the group {group}",
                stored.content(group),
                wanted.content(group),
                "Use the store's settings, or extract this group anew: `lens-cache extract "
                f"... --replace {group}`",
            )


def _require_same_data(root: Path, config: ExtractConfig) -> bool:
    """Compare with the settings of manifest or plan; returns whether the data lies elsewhere."""
    wanted, advice = _absolute(config)["data"], "Use the settings the store was planned with"
    if (root / MANIFEST_FILE).exists():
        manifest = Manifest.load(root)
        layout = {"shard_size": manifest.config["store"]["shard_size"], "format": manifest.format}
        stored = _with_defaults(manifest.config["data"], root) | layout
        wanted |= {"shard_size": config.store.shard_size, "format": config.store.format}
    else:
        settings = read_json(
            root / PLAN_FOLDER / PLAN_SETTINGS, purpose="reading a plan's settings"
        )
        stored = _with_defaults(settings, root)
    moved = bool(stored.pop("root") != wanted.pop("root"))
    require_same(root, "the data", stored, wanted, f"{advice}, or extract into a new store")
    return moved


def _with_defaults(settings: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return a store's data settings with what has become a setting since it was planned."""
    return to_tree(parse_config(DataConfig, settings, source=f"the settings of the plan in {root}"))


def _require_same_plan(root: Path, digest: str, images: int, queries: int, found: Plan) -> None:
    if found.digest() != digest:
        raise StoreMismatchError(
            f"the data of the store {root}: what lies in data.root now is not what was planned "
            f"({images} images and {queries} queries then, {found.num_images} and "
            f"{found.num_queries} now); put the data back, or extract into a new store"
        )


def _absolute(config: ExtractConfig) -> dict[str, Any]:
    """Return the settings as plain values with absolute paths, to be found from any folder."""
    data, encoders = config.data, config.encoders
    config = replace(
        config,
        data=replace(data, root=data.root.resolve() if data.root else None),
        encoders=replace(encoders, root=encoders.root.resolve() if encoders.root else None),
    )
    return to_tree(config)


def _discard(root: Path, group: Group) -> None:
    """Forget a group: its commits first, so that no reader takes half of it for whole."""
    for folder in (root / "commits" / group, root / "quarantine" / group, root / group):
        remove_folder(folder)
    remove_folder(root / FROZEN_FOLDER)
