"""Everything of an extraction that happens before a model runs.

Every step is a pure function of data and settings, and is skipped if the store has its result: an
extraction that was killed at any moment resumes when the same command is run again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_cache.config.data import DataConfig
from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import parse_config, to_tree
from lens_cache.datasets.base import dataset_root
from lens_cache.datasets.source import DataSource, Mapper
from lens_cache.encoders.resolve import Encoders
from lens_cache.errors import StoreMismatchError
from lens_cache.extraction.describe import absolute_settings, describe
from lens_cache.extraction.listing import LISTING, listing, require_same_files
from lens_cache.plan.build import build_plan
from lens_cache.plan.plan import Plan
from lens_cache.progress import Progress, no_progress
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.folder import StoreFolder, Todo
from lens_cache.store.layout import GROUPS, Group
from lens_cache.store.manifest import Manifest, PlanSummary, require_same
from lens_cache.store.questions import Questions


@dataclass(frozen=True)
class PreparedStore:
    """A store, and everything that its extraction follows from.

    Attributes:
        folder: The store.
        config: The settings.
        encoders: The frozen models that they name.
        catalogue: Plan, manifest and questions.
    """

    folder: StoreFolder
    config: ExtractConfig
    encoders: Encoders
    catalogue: Catalogue

    @property
    def root(self) -> Path:
        """The store's folder or URL."""
        return self.folder.root

    @property
    def plan(self) -> Plan:
        """The images and queries."""
        return self.catalogue.plan

    @property
    def manifest(self) -> Manifest:
        """What the store contains, or will contain."""
        return self.catalogue.manifest

    @property
    def questions(self) -> Questions:
        """The text tokens of the queries."""
        return self.catalogue.questions

    def todo(self) -> Todo:
        """Return per shard the groups that are not committed; only shards that lack one."""
        return self.folder.todo(self.catalogue.num_shards)

    def reopened(self) -> PreparedStore:
        """Mark the store as incomplete and return it."""
        catalogue = dataclasses.replace(
            self.catalogue, manifest=self.folder.reopen(self.catalogue.manifest)
        )
        return dataclasses.replace(self, catalogue=catalogue)


def prepare_store(
    root: str | Path,
    config: ExtractConfig,
    *,
    progress: Progress = no_progress,
    mapper: Mapper | None = None,
    replace: tuple[Group, ...] = (),
    write: bool = True,
) -> PreparedStore:
    """Find the models, plan the data, and write everything of a store but its features.

    The manifest is read once. The caller must hold the right to write (``StoreFolder.writing``).

    Args:
        root: Folder or URL of the store; created if it does not exist.
        config: The settings.
        progress: Called with the step's name, steps done and in all.
        mapper: Distributes the reading of the data; threads of this process by default.
        replace: Groups to remove and extract again with these settings.
        write: Whether to write anything; without it, nothing in the folder changes.

    Raises:
        CheckpointError: If a model is missing or is not what it should be.
        DatasetError: If the data cannot be read.
        StoreMismatchError: If plan, data, or a group that is not replaced has other settings.
        StoreError: If the store has shards but no manifest, or its manifest cannot be read.
    """
    folder = StoreFolder(root)
    if not folder.planned:
        dataset_root(config.data)  # before models are looked for, or even downloaded
    encoders = Encoders.resolve(config)
    stored = folder.manifest()
    if write and stored is not None and not (folder.planned and folder.has_frozen):
        stored = folder.reopen(stored)  # it is not complete, whatever its manifest says
    plan = prepare_plan(folder, config, stored, progress=progress, mapper=mapper, write=write)
    wanted = describe(config, encoders, plan)
    if stored is not None:
        _require_same_plan(folder.root, stored.plan, plan)
        _require_same_groups(folder.root, stored, wanted.manifest, replace)
        if not replace and dataclasses.replace(stored, complete=False) == wanted.manifest:
            wanted = dataclasses.replace(wanted, manifest=stored)
    prepared = PreparedStore(folder, config, encoders, wanted)
    if write:
        if stored is not None and replace:
            folder.reopen(stored)  # before its bytes are removed, so that no reader opens it
            for group in replace:
                folder.forget_group(group)
        folder.describe(wanted)
        _save_frozen(prepared)
    return prepared


def prepare_plan(
    folder: StoreFolder,
    config: ExtractConfig,
    stored: Manifest | None,
    *,
    progress: Progress = no_progress,
    mapper: Mapper | None = None,
    write: bool = True,
) -> Plan:
    """Load the store's plan, or build and save it.

    Args:
        folder: The store.
        config: The settings.
        stored: Its manifest, if it has one.
        progress: Called with the step's name, steps done and in all.
        mapper: Distributes the reading of the data.
        write: Whether to save a new plan.

    Raises:
        StoreMismatchError: If the store was planned from other settings or other data.
    """
    planned, moved = folder.planned, False
    if not planned and stored is not None:
        planned = folder.shared.adopt_plan(stored.plan.digest, write=write)
    if stored is not None or planned:
        moved = _require_same_data(folder, config, stored)
    if not planned:
        source = DataSource(config.data)
        files = listing(source)  # before they are planned: a change from now on is noticed
        plan = build_plan(config.data, progress=progress, mapper=mapper, source=source)
        if write:
            folder.save_plan(plan, {**absolute_settings(config)["data"], LISTING: files})
        return plan
    if not moved:
        require_same_files(folder, config.data.root, extracting=stored is not None)
    plan = folder.plan()
    if moved:
        found = build_plan(config.data, progress=progress, mapper=mapper)
        if not plan.same_rows(found):
            raise _other_data(folder.root, plan.num_images, plan.num_queries, found)
    return plan


def _save_frozen(prepared: PreparedStore) -> None:
    """Export the frozen parts that training needs, unless the store has them."""
    if prepared.folder.has_frozen:
        return
    layers = prepared.config.encoders.llava.layers
    prepared.folder.save_frozen(prepared.encoders.frozen_parts(layers))


def _require_same_data(folder: StoreFolder, config: ExtractConfig, stored: Manifest | None) -> bool:
    """Compare with the settings of manifest or plan; returns whether the data has moved."""
    wanted = absolute_settings(config)["data"]
    if stored is not None:
        found = to_tree(stored.data)
        found |= {"shard_size": stored.store.shard_size, "format": stored.format}
        wanted |= {"shard_size": config.store.shard_size, "format": config.store.format}
    else:
        settings = folder.plan_settings()
        settings.pop(LISTING, None)
        found = _with_defaults(settings, folder.root)
    moved = bool(found.pop("root") != wanted.pop("root"))
    advice = "Use the settings the store was planned with, or extract into a new store"
    require_same(folder.root, "the data", found, wanted, advice)
    return moved


def _with_defaults(settings: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return a plan's data settings, with defaults for settings that are newer than the plan."""
    return to_tree(parse_config(DataConfig, settings, source=f"the settings of the plan in {root}"))


def _require_same_plan(root: Path, planned: PlanSummary, found: Plan) -> None:
    if found.digest() != planned.digest:
        raise _other_data(root, planned.images, planned.queries, found)


def _other_data(root: Path, images: int, queries: int, found: Plan) -> StoreMismatchError:
    return StoreMismatchError(
        f"the data of the store {root}: the files in data.root are not those that were planned "
        f"({images} images and {queries} queries then, {found.num_images} and "
        f"{found.num_queries} now); put the data back, or extract into a new store"
    )


def _require_same_groups(
    root: Path, stored: Manifest, wanted: Manifest, replaced: tuple[Group, ...]
) -> None:
    """Refuse models or precisions that differ from the store's (invariant I5)."""
    for group in GROUPS:
        if group not in replaced:
            require_same(
                root,
                f"the group {group}",
                stored.content(group),
                wanted.content(group),
                "Use the store's settings, or extract this group again: `lens-cache extract "
                f"... --replace {group}`",
            )
