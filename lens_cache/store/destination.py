"""Where a conversion may write: a new folder, or one of the same conversion."""

from __future__ import annotations

from pathlib import Path

from lens_cache.errors import ConfigError, StoreError
from lens_cache.store.io.files import TEMPORARY
from lens_cache.store.io.lease import FOLDER as LEASE
from lens_cache.store.io.lock import LOCK
from lens_cache.store.layout import GROUPS
from lens_cache.store.manifest import Manifest, require_same
from lens_cache.store.paths import (
    COMMITS_FOLDER,
    FROZEN_FOLDER,
    MANIFEST_FILE,
    PLAN_FOLDER,
    QUARANTINE_FOLDER,
    RUNS_FOLDER,
    SAMPLES_FOLDER,
)

_OF_A_WRITER = {LOCK, LEASE, TEMPORARY}
_OF_A_STORE = {
    *_OF_A_WRITER,
    *(MANIFEST_FILE, PLAN_FOLDER, FROZEN_FOLDER, SAMPLES_FOLDER, RUNS_FOLDER),
    *GROUPS,
    *(COMMITS_FOLDER, QUARANTINE_FOLDER, "zarr.json"),
}


def require_two_folders(source: Path, dest: Path) -> None:
    """Refuse two folders if they are the same or one is inside the other.

    Raises:
        ConfigError: If they are.
    """
    one, other = source.resolve(), dest.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise ConfigError(
            f"converting {source} to {dest}: expected two folders, neither inside the other; "
            "give another DEST"
        )


def require_ours(dest: Path, manifest: Manifest) -> None:
    """Refuse a folder that has files of anything but this conversion.

    The folder of a training run has the manifest of its store, too, but also other files.

    Raises:
        StoreError: If it has other files.
        StoreMismatchError: If it is another store.
    """
    names = {path.name for path in dest.iterdir()} if dest.is_dir() else set()
    known = _OF_A_STORE if MANIFEST_FILE in names else _OF_A_WRITER
    if names - known:
        raise StoreError(
            f"converting to {dest}: expected an empty folder or an unfinished conversion, found "
            f"{min(names - known)}; give a new DEST"
        )
    if MANIFEST_FILE in names:
        found = Manifest.load(dest)
        require_same(
            dest,
            "converting into the store: the content",
            _identity(found),
            _identity(manifest),
            "Give a new DEST",
        )


def _identity(manifest: Manifest) -> dict[str, object]:
    """Return the fields in which two manifests of one store in one format agree."""
    content = {
        f"{group}.{field}": value
        for group in GROUPS
        for field, value in manifest.content(group).items()
    }
    return {
        "format": manifest.format,
        "plan": manifest.plan.digest,
        "shard_size": manifest.store.shard_size,
        **content,
    }
