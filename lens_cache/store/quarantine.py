"""Quarantine records: which images failed, and why."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from lens_cache.errors import CorruptShardError
from lens_cache.store.io.files import read_json, write_json
from lens_cache.store.layout import Group
from lens_cache.store.paths import QUARANTINE_FOLDER


@dataclass(frozen=True, kw_only=True)
class Quarantine:
    """One image that a group could not extract.

    Attributes:
        group: The feature group.
        image_id: The image.
        path: Its path relative to the dataset's root.
        stage: ``read``, ``model`` or ``crash`` (the worker process died on it).
        reason: One line.
    """

    group: str
    image_id: str
    path: str
    stage: str
    reason: str

    def save(self, root: Path) -> None:
        """Write the record."""
        path = quarantine_path(root, self.group, self.image_id)
        write_json(root, path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: Path) -> Quarantine:
        """Read a record.

        Raises:
            StoreError: If it is missing.
            CorruptShardError: If it is damaged, or the record of something else.
        """
        doing = "reading a quarantine record"
        try:
            found = cls(**read_json(path, purpose=doing))
        except TypeError:
            raise CorruptShardError(f"{doing}: {path} is not one") from None
        if (found.group, found.image_id) != (path.parent.name, path.stem):
            raise CorruptShardError(
                f"{doing}: {path} is that of {found.group} of image {found.image_id}"
            )
        return found


def quarantined(root: Path, group: Group) -> dict[str, Quarantine]:
    """Return the quarantine records of a group by image id."""
    records = map(Quarantine.load, quarantine_paths(root, group))
    return {record.image_id: record for record in records}


def quarantine_paths(root: Path, group: str) -> list[Path]:
    """Return the files of a group's quarantine records; hidden files are ignored."""
    return sorted((root / QUARANTINE_FOLDER / group).glob("[!.]*.json"))


def quarantine_path(root: Path, group: str, image_id: str) -> Path:
    """Return the path of an image's quarantine record."""
    return root / QUARANTINE_FOLDER / group / f"{image_id}.json"
