"""Commit records: which shards are done.

A shard of a group counts as done when its commit record exists; it is written last. The record
holds the checksum of every object of the shard and, per image, of every chunk, so that a flipped
byte can be traced to an image. An image without checksums was quarantined: its chunks are absent,
and its quarantine record has the reason.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from lens_cache.store.io.files import crc32c_of_file, read_json, write_json
from lens_cache.store.layout import GROUPS, Group
from lens_cache.store.paths import COMMITS_FOLDER, FROZEN_FOLDER, PLAN_FOLDER, QUESTIONS_FILE

# The commit with the checksums of all files outside the feature groups.
SHARED = "shared"


@dataclass(frozen=True, kw_only=True)
class ObjectRecord:
    """One written file: its path in the store, size in bytes and CRC-32C."""

    path: str
    size: int
    crc32c: int


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One committed shard of one group.

    Attributes:
        group: The feature group.
        shard: The shard's number.
        objects: Every file of the shard.
        images: Per image id the CRC-32C of its part of each array; empty if quarantined.
    """

    group: str
    shard: int
    objects: list[ObjectRecord]
    images: dict[str, dict[str, int]] = field(default_factory=dict)

    def save(self, root: Path) -> None:
        """Write the record; after this the shard is done."""
        write_json(root, commit_path(root, self.group, self.shard), dataclasses.asdict(self))

    @classmethod
    def load(cls, root: Path, group: str, shard: int) -> Commit:
        """Read a record.

        Raises:
            StoreError: If it is missing or unreadable.
        """
        document = read_json(
            commit_path(root, group, shard), purpose=f"reading the commit of {group} shard {shard}"
        )
        document["objects"] = [ObjectRecord(**entry) for entry in document["objects"]]
        return cls(**document)


def shared_files(root: Path) -> list[Path]:
    """Return the files of a store that belong to no shard; they never change once written."""
    metadata = [path for group in GROUPS for path in (root / group).rglob("zarr.json")]
    parts = [*(root / PLAN_FOLDER).iterdir(), *(root / FROZEN_FOLDER).iterdir()]
    return sorted([*parts, *metadata, *root.glob("zarr.json"), root / QUESTIONS_FILE])


def seal_shared_files(root: Path) -> None:
    """Record the checksums of the plan, the questions, the frozen parts and the Zarr metadata."""
    objects = []
    for path in shared_files(root):
        crc, size = crc32c_of_file(path)
        name = path.relative_to(root).as_posix()
        objects.append(ObjectRecord(path=name, size=size, crc32c=crc))
    Commit(group=SHARED, shard=0, objects=objects).save(root)


def commit_path(root: Path, group: str, shard: int) -> Path:
    """Return the path of a shard's commit record."""
    return root / COMMITS_FOLDER / group / f"{shard:06d}.json"


def committed_shards(root: Path, group: Group) -> set[int]:
    """Return the shards of a group that have a commit record."""
    return {int(path.stem) for path in (root / COMMITS_FOLDER / group).glob("*.json")}


def missing_shards(root: Path, num_shards: int) -> dict[str, list[int]]:
    """Return per group the shards that have no commit record."""
    return {
        group: sorted(set(range(num_shards)) - committed_shards(root, group)) for group in GROUPS
    }
