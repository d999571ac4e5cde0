"""Prepare a broken store for an extraction, which writes again what is missing."""

from __future__ import annotations

from collections.abc import Sequence

from lens_cache.errors import CorruptShardError, LensCacheError, StoreError
from lens_cache.plan.plan import Plan
from lens_cache.store.folder import StoreFolder
from lens_cache.store.io.files import read_json, remove_file, write_bytes
from lens_cache.store.io.lock import writer_lock
from lens_cache.store.layout import GROUPS
from lens_cache.store.manifest import Manifest
from lens_cache.store.paths import FROZEN_FOLDER, MANIFEST_FILE, PLAN_FOLDER, SPARE_MANIFEST
from lens_cache.store.quarantine import Quarantine, quarantine_paths
from lens_cache.store.shared import NUMBER, SHARED
from lens_cache.store.verify import Problem


def restore_manifest(folder: StoreFolder) -> None:
    """Replace a lost or damaged manifest by its spare, which is not complete.

    Raises:
        StoreError: If the folder is no store, or the spare is missing or damaged too.
    """
    root, spare = folder.root, folder.root / SPARE_MANIFEST
    try:
        Manifest.load(root)
    except (CorruptShardError, StoreError) as error:
        lost = spare.exists() and not (root / MANIFEST_FILE).exists()
        if not (lost or isinstance(error, CorruptShardError)):
            raise
        read_json(spare, purpose=f"repairing {root / MANIFEST_FILE} from its spare")
        with writer_lock(root):
            write_bytes(root, root / MANIFEST_FILE, spare.read_bytes())


def forget_broken(folder: StoreFolder, problems: Sequence[Problem], manifest: Manifest) -> None:
    """Remove commits of broken shards, broken shared folders and unreadable quarantine records.

    Whether plan and frozen parts are broken is decided by their bytes, not by the manifest: an
    earlier repair that was killed may have marked the store as incomplete.

    Args:
        folder: The store.
        problems: What ``verify_store`` found.
        manifest: Its manifest.
    """
    for problem in problems:
        if problem.shard is not None:
            folder.forget_shard(problem.group, problem.shard)
    _forget_broken_folders(folder, manifest.plan.digest)
    for path in (path for group in GROUPS for path in quarantine_paths(folder.root, group)):
        try:
            Quarantine.load(path)
        except LensCacheError:
            remove_file(path)


def _forget_broken_folders(folder: StoreFolder, plan_digest: str) -> None:
    """Remove plan and frozen parts if they are not as recorded, or the plan is another one."""
    try:
        shared = folder.shared
    except LensCacheError:
        folder.forget_shard(SHARED, NUMBER)
        shared = folder.shared
    for name in (PLAN_FOLDER, FROZEN_FOLDER):
        if shared.complaints_of(name):
            shared = shared.forget(name)
    try:
        broken = Plan.load(folder.root / PLAN_FOLDER, shared.read).digest() != plan_digest
    except LensCacheError:
        broken = True
    if broken:
        shared.forget(PLAN_FOLDER)
