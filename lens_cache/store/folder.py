"""The folder of a store, for writing: everything but the features themselves.

``StoreFolder`` is the only way to commit, forget or quarantine from outside of this package. A
shard's features go through ``formats.open_writers``; ``Store`` reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lens_cache.errors import CorruptShardError, LensCacheError, StoreError
from lens_cache.features.frozen_parts import CONFIG_FILE, FrozenParts
from lens_cache.plan.plan import Plan
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.commits import (
    SHARED,
    commit_path,
    committed_shards,
    missing_shards,
    seal_shared_files,
)
from lens_cache.store.formats import write_array_metadata
from lens_cache.store.io.files import (
    folder_size,
    has_folder,
    new_folder,
    read_json,
    remove_file,
    remove_folder,
    sealed,
    sweep_temporary,
    write_bytes,
)
from lens_cache.store.io.lock import writer_lock
from lens_cache.store.io.remote import store_path
from lens_cache.store.layout import GROUPS, Group
from lens_cache.store.manifest import Manifest
from lens_cache.store.paths import (
    COMMITS_FOLDER,
    FROZEN_FOLDER,
    MANIFEST_FILE,
    PLAN_FOLDER,
    PLAN_SETTINGS,
    QUARANTINE_FOLDER,
    QUESTIONS_FILE,
    SAMPLES_FOLDER,
    SPARE_MANIFEST,
)
from lens_cache.store.quarantine import Quarantine, quarantine_path, quarantine_paths, quarantined
from lens_cache.store.verify import Problem

Todo = dict[int, tuple[Group, ...]]


class StoreFolder:
    """A store being written.

    Attributes:
        root: Its folder, or the ``UPath`` of its URL.
    """

    def __init__(self, root: str | Path) -> None:
        """Take a folder or URL; it need not exist.

        Raises:
            StoreError: If no installed package can read the URL.
        """
        self.root = store_path(root)

    @contextmanager
    def writing(self) -> Iterator[Callable[[], None]]:
        """Hold the only right to write; yields a check that raises once another process took over.

        Temporary files that killed writers left are removed at both ends.

        Raises:
            StoreError: If the folder cannot be written, or another process holds the right.
        """
        with writer_lock(self.root) as require_lock:
            sweep_temporary(self.root)
            yield require_lock
            sweep_temporary(self.root)

    # Manifest

    def manifest(self) -> Manifest | None:
        """Return the manifest; None if there is none yet.

        Raises:
            StoreError: If it cannot be read, or there are shards without a manifest.
        """
        if (self.root / MANIFEST_FILE).exists():
            return Manifest.load(self.root)
        if any(self.committed(group) for group in GROUPS):
            raise StoreError(
                f"opening the store {self.root}: it has shards but no {MANIFEST_FILE}, so their "
                "content is unknown; put it back, or extract into a new store"
            )
        return None

    def describe(self, catalogue: Catalogue) -> None:
        """Write manifest, questions and array metadata."""
        catalogue.manifest.save(self.root)
        write_bytes(self.root, self.root / QUESTIONS_FILE, catalogue.questions.to_bytes())
        write_array_metadata(self.root, catalogue.manifest)

    def save_spare_manifest(self) -> None:
        """Copy the manifest to where ``restore_manifest`` finds it."""
        write_bytes(self.root, self.root / SPARE_MANIFEST, (self.root / MANIFEST_FILE).read_bytes())

    def restore_manifest(self) -> bool:
        """Replace a damaged manifest by its spare, which is not complete; returns whether it did.

        Raises:
            StoreError: If the spare is missing or damaged too.
        """
        try:
            Manifest.load(self.root)
        except CorruptShardError:
            spare = self.root / SPARE_MANIFEST
            read_json(spare, purpose=f"repairing {self.root / MANIFEST_FILE} from its spare")
            with writer_lock(self.root):
                write_bytes(self.root, self.root / MANIFEST_FILE, spare.read_bytes())
            return True
        return False

    def reopen(self, manifest: Manifest) -> Manifest:
        """Mark the store as incomplete, so that no reader opens it; returns the new manifest."""
        manifest = dataclasses.replace(manifest, complete=False)
        manifest.save(self.root)
        return manifest

    @property
    def sealed(self) -> bool:
        """Whether the checksums of the files that belong to no shard are recorded."""
        return commit_path(self.root, SHARED, 0).exists()

    def seal(self, manifest: Manifest) -> Manifest:
        """Record those checksums and mark the store as complete; returns the new manifest."""
        seal_shared_files(self.root)
        manifest = dataclasses.replace(manifest, complete=True)
        manifest.save(self.root)
        return manifest

    # Plan, frozen parts, sizes

    @property
    def planned(self) -> bool:
        """Whether the store has a plan."""
        return has_folder(self.root / PLAN_FOLDER, last=PLAN_SETTINGS)

    def plan(self) -> Plan:
        """Read the plan; raises StoreError if there is none or it is damaged."""
        return Plan.load(self.root / PLAN_FOLDER)

    def plan_settings(self) -> dict[str, Any]:
        """Return the data settings that the plan was made with, as they are in the file."""
        path = self.root / PLAN_FOLDER / PLAN_SETTINGS
        return read_json(path, purpose="reading a plan's settings")

    def save_plan(self, plan: Plan, settings: Mapping[str, Any]) -> None:
        """Write a plan with its data settings."""
        with new_folder(self.root, self.root / PLAN_FOLDER, last=PLAN_SETTINGS) as scratch:
            plan.save(scratch)
            (scratch / PLAN_SETTINGS).write_bytes(sealed(dict(settings)))

    @property
    def has_frozen(self) -> bool:
        """Whether the store has the frozen parts."""
        return has_folder(self.root / FROZEN_FOLDER, last=CONFIG_FILE)

    def save_frozen(self, parts: FrozenParts) -> None:
        """Write the frozen parts."""
        with new_folder(self.root, self.root / FROZEN_FOLDER, last=CONFIG_FILE) as scratch:
            parts.save(scratch)

    def group_bytes(self, group: Group) -> int:
        """Return the bytes of a group's own folder."""
        return folder_size(self.root / group)

    def tar_bytes(self) -> list[int]:
        """Return the size of every tar of samples; empty in the format zarr."""
        return [path.stat().st_size for path in (self.root / SAMPLES_FOLDER).glob("*.tar")]

    # Commits and quarantine

    def committed(self, group: Group) -> set[int]:
        """Return the committed shards of a group."""
        return committed_shards(self.root, group)

    def todo(self, num_shards: int) -> Todo:
        """Return per shard the groups that are not committed; only shards that lack one."""
        missing = missing_shards(self.root, num_shards)
        lacks = {
            shard: tuple(group for group in GROUPS if shard in missing[group])
            for shard in range(num_shards)
        }
        return {shard: groups for shard, groups in lacks.items() if groups}

    def quarantined(self, group: Group) -> dict[str, Quarantine]:
        """Return the quarantine records of a group by image id."""
        return quarantined(self.root, group)

    def quarantine(self, record: Quarantine) -> None:
        """Write a quarantine record."""
        record.save(self.root)

    def forget_shard(self, group: str, shard: int) -> None:
        """Remove a commit, so that the shard is extracted again."""
        remove_file(commit_path(self.root, group, shard))

    def forget_quarantined(self, catalogue: Catalogue) -> None:
        """Remove all quarantine records, and the commits of the shards that lack their images."""
        ids = catalogue.plan.images["image_id"].to_pylist()
        shards = {image_id: index // catalogue.shard_size for index, image_id in enumerate(ids)}
        for group in GROUPS:
            for image_id in self.quarantined(group):
                self.forget_shard(group, shards[image_id])
                remove_file(quarantine_path(self.root, group, image_id))

    def forget_group(self, group: Group) -> None:
        """Remove a group and the frozen parts; commits first, so that no reader uses half of it."""
        for folder in (COMMITS_FOLDER, QUARANTINE_FOLDER):
            remove_folder(self.root / folder / group)
        remove_folder(self.root / group)
        remove_folder(self.root / FROZEN_FOLDER)

    def forget_broken(self, problems: Sequence[Problem], *, shared: bool) -> None:
        """Remove what ``verify_store`` found broken, so that an extraction writes it again.

        Args:
            problems: What it found.
            shared: Whether problems of no shard mean damage: then plan and frozen parts are
                removed. In an incomplete store they may only be missing.
        """
        for problem in problems:
            if problem.shard is not None:
                self.forget_shard(problem.group, problem.shard)
            elif shared:
                self.forget_shard(SHARED, 0)
                for name in (PLAN_FOLDER, FROZEN_FOLDER):
                    remove_folder(self.root / name)
        try:
            self.plan()
        except LensCacheError:
            remove_folder(self.root / PLAN_FOLDER)
        for path in (path for group in GROUPS for path in quarantine_paths(self.root, group)):
            try:
                Quarantine.load(path)
            except (LensCacheError, TypeError):
                remove_file(path)
