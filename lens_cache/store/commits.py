"""Commit records: which shards are done.

A shard of a group counts as done when its commit record exists; it is written last. The record
holds the checksum of every object of the shard and, per image, of every chunk, so that a flipped
byte can be traced to an image. An image without checksums was quarantined: its chunks are absent,
and its quarantine record has the reason.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path

from lens_cache.errors import CorruptShardError
from lens_cache.store.io.files import crc32c_of_file, read_json, reason, write_json
from lens_cache.store.layout import GROUPS, Group
from lens_cache.store.paths import COMMITS_FOLDER, is_inside

_NUMBERED = re.compile(r"[0-9]{6,}")


@dataclass(frozen=True, kw_only=True)
class ObjectRecord:
    """One written file: its path in the store, size in bytes and CRC-32C."""

    path: str
    size: int
    crc32c: int

    def complaint(self, root: Path) -> str | None:
        """Return what is wrong with the file; None if it is as recorded."""
        try:
            crc, size = crc32c_of_file(root / self.path)
        except OSError as error:
            return f"{self.path}: {reason(error)}"
        if size != self.size:
            return f"{self.path} has {size} bytes, {self.size} were committed"
        if crc != self.crc32c:
            return f"{self.path} does not match its checksum"
        return None


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One committed shard of one group.

    Attributes:
        group: The feature group.
        shard: The shard's number.
        objects: Every file of the shard.
        images: Per image id the CRC-32C of its part of each array; empty if quarantined.
        content: Digest of what decides its bytes (``Manifest.content_digest``); empty in records
            of versions without it, and in those of no group.
        computed: What else its bytes depend on, by rounding: device, versions, batch; empty as
            ``content`` is.
    """

    group: str
    shard: int
    objects: list[ObjectRecord]
    images: dict[str, dict[str, int]] = field(default_factory=dict)
    content: str = ""
    computed: dict[str, str] = field(default_factory=dict)

    def save(self, root: Path) -> None:
        """Write the record; after this the shard is done."""
        document = dataclasses.asdict(self)
        for name in ("content", "computed"):
            if not document[name]:
                del document[name]
        write_json(root, commit_path(root, self.group, self.shard), document)

    def require(self, root: Path, path: str) -> None:
        """Compare one file of the shard with its record.

        Raises:
            CorruptShardError: If it has none, or is missing or damaged.
        """
        records = [record for record in self.objects if record.path == path]
        complaint = records[0].complaint(root) if records else f"{path} is not in its commit"
        if complaint is not None:
            raise CorruptShardError(
                f"reading {self.group} shard {self.shard} of {root}: {complaint}; run "
                "`lens-cache verify STORE --repair`"
            )

    @classmethod
    def load(cls, root: Path, group: str, shard: int, content: str = "") -> Commit:
        """Read a record.

        Args:
            root: The store.
            group: The feature group.
            shard: The shard's number.
            content: The digest that the record must have, if it has one; empty for any.

        Raises:
            StoreError: If it is missing.
            CorruptShardError: If it is damaged, or the record of something else.
        """
        path = commit_path(root, group, shard)
        doing = f"reading the commit of {group} shard {shard}"
        document = read_json(path, purpose=doing)
        try:
            document["objects"] = [ObjectRecord(**entry) for entry in document["objects"]]
            found = cls(**document)
        except (KeyError, TypeError):
            raise CorruptShardError(f"{doing}: {path} is not a commit record") from None
        if outside := [record.path for record in found.objects if not is_inside(record.path)]:
            raise CorruptShardError(f"{doing}: {path} names {outside[0]!r}, outside the store")
        if (found.group, found.shard) != (group, shard):
            raise CorruptShardError(
                f"{doing}: {path} is the record of {found.group} shard {found.shard}"
            )
        if found.content and content and found.content != content:
            raise CorruptShardError(f"{doing}: {path} is of other models, settings or data")
        return found


def commit_path(root: Path, group: str, shard: int) -> Path:
    """Return the path of a shard's commit record."""
    return root / COMMITS_FOLDER / group / f"{shard:06d}.json"


def committed_shards(root: Path, group: Group) -> set[int]:
    """Return the shards of a group that have a commit record; other files are ignored."""
    names = [path.stem for path in (root / COMMITS_FOLDER / group).glob("*.json")]
    return {int(name) for name in names if _NUMBERED.fullmatch(name)}


def missing_shards(root: Path, num_shards: int) -> dict[str, list[int]]:
    """Return per group the shards that have no commit record."""
    return {
        group: sorted(set(range(num_shards)) - committed_shards(root, group)) for group in GROUPS
    }
