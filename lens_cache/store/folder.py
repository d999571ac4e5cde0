"""The folder of a store, for writing: everything but the features themselves.

``StoreFolder`` is the only way to commit, forget or quarantine from outside of this package. A
shard's features go through ``formats.open_writers``; ``Store`` reads.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lens_cache.errors import StoreError
from lens_cache.features.frozen_parts import CONFIG_FILE, FrozenParts
from lens_cache.plan.plan import Plan
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.commits import Commit, commit_path, committed_shards, missing_shards
from lens_cache.store.formats import array_metadata
from lens_cache.store.io.files import (
    folder_size,
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
from lens_cache.store.quarantine import Quarantine, quarantine_path, quarantined
from lens_cache.store.shared import TABLES, SharedFiles, record_of

Todo = dict[int, tuple[Group, ...]]

_READERS = 16  # threads that read commits; behind a URL each is a request


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
            spare = (self.root / SPARE_MANIFEST).exists()
            cure = "run `lens-cache verify STORE --repair`" if spare else "put it back"
            raise StoreError(
                f"opening the store {self.root}: it has shards but no {MANIFEST_FILE}, so their "
                f"content is unknown; {cure}, or extract into a new store"
            )
        return None

    def describe(self, catalogue: Catalogue) -> None:
        """Write manifest, questions and array metadata, where they are not there already."""
        catalogue.manifest.save(self.root)
        files = {QUESTIONS_FILE: catalogue.questions.to_bytes()}
        files |= array_metadata(self.root, catalogue.manifest)
        self.shared.replaced(TABLES, [record_of(name, data) for name, data in files.items()])
        for name, data in files.items():
            if not (self.root / name).exists() or (self.root / name).read_bytes() != data:
                write_bytes(self.root, self.root / name, data)

    def save_spare_manifest(self) -> None:
        """Copy the manifest to where ``restore_manifest`` finds it."""
        write_bytes(self.root, self.root / SPARE_MANIFEST, (self.root / MANIFEST_FILE).read_bytes())

    def reopen(self, manifest: Manifest) -> Manifest:
        """Mark the store as incomplete, so that no reader opens it; returns the new manifest."""
        manifest = dataclasses.replace(manifest, complete=False)
        manifest.save(self.root)
        return manifest

    @property
    def shared(self) -> SharedFiles:
        """The record of the files that belong to no shard, read again.

        Raises:
            CorruptShardError: If it is damaged.
        """
        return SharedFiles.load(self.root)

    def require_shared(self) -> None:
        """Compare the files that belong to no shard with their record.

        Raises:
            CorruptShardError: If one is not as it was written.
        """
        self.shared.require(f"checking the store {self.root}")

    def seal(self, manifest: Manifest) -> Manifest:
        """Mark the store as complete; returns the new manifest.

        Raises:
            CorruptShardError: If a file that belongs to no shard is not as it was written.
        """
        self.require_shared()
        manifest = dataclasses.replace(manifest, complete=True)
        manifest.save(self.root)
        return manifest

    # Plan, frozen parts, sizes

    @property
    def planned(self) -> bool:
        """Whether the store has a plan whose files are recorded."""
        return self.shared.has(PLAN_FOLDER, last=PLAN_SETTINGS)

    def plan(self) -> Plan:
        """Read the plan; raises StoreError if there is none or it is damaged."""
        return Plan.load(self.root / PLAN_FOLDER, self.shared.read)

    def plan_settings(self) -> dict[str, Any]:
        """Return the data settings that the plan was made with, as they are in the file."""
        path = self.root / PLAN_FOLDER / PLAN_SETTINGS
        return read_json(path, purpose="reading a plan's settings")

    def save_plan(self, plan: Plan, settings: Mapping[str, Any]) -> None:
        """Write a plan with its data settings."""
        with self.shared.new_folder(PLAN_FOLDER, last=PLAN_SETTINGS) as scratch:
            plan.save(scratch)
            (scratch / PLAN_SETTINGS).write_bytes(sealed(dict(settings)))

    @property
    def has_frozen(self) -> bool:
        """Whether the store has the frozen parts, and their files are recorded."""
        return self.shared.has(FROZEN_FOLDER, last=CONFIG_FILE)

    def save_frozen(self, parts: FrozenParts) -> None:
        """Write the frozen parts."""
        with self.shared.new_folder(FROZEN_FOLDER, last=CONFIG_FILE) as scratch:
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

    def computed(self, group: Group) -> Counter[frozenset[tuple[str, str]]]:
        """Return how the committed shards of a group were computed, each way with its shards.

        A way has the items of ``Commit.computed``; none for shards of versions without it.
        """
        with ThreadPoolExecutor(_READERS, "commits") as pool:
            commits = pool.map(
                lambda shard: Commit.load(self.root, group, shard), sorted(self.committed(group))
            )
            return Counter(frozenset(commit.computed.items()) for commit in commits)

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

    def forget_quarantined(
        self, catalogue: Catalogue, records: Iterable[Quarantine] | None = None
    ) -> None:
        """Remove quarantine records, and the commits of the shards that lack their images.

        Args:
            catalogue: The tables of the store.
            records: The records; all of them by default.
        """
        if records is None:
            records = [record for group in GROUPS for record in self.quarantined(group).values()]
        ids = catalogue.plan.images["image_id"].to_pylist()
        shards = {image_id: index // catalogue.shard_size for index, image_id in enumerate(ids)}
        for record in records:
            self.forget_shard(record.group, shards[record.image_id])
            remove_file(quarantine_path(self.root, record.group, record.image_id))

    def forget_group(self, group: Group) -> None:
        """Remove a group and the frozen parts; commits first, so that no reader uses half of it.

        Raises:
            StoreError: If a commit cannot be removed; its shard would keep the old features.
        """
        for folder in (COMMITS_FOLDER, QUARANTINE_FOLDER):
            remove_folder(self.root / folder / group)
        if left := self.committed(group):
            raise StoreError(
                f"replacing {group} in the store {self.root}: "
                f"{commit_path(self.root, group, min(left))} cannot be removed; change its owner "
                "or permissions and run the same command again"
            )
        remove_folder(self.root / group)
        self.shared.forget(FROZEN_FOLDER)
