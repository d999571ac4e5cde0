"""The files of a store that belong to no shard, and the record of their checksums.

They are the plan, the frozen parts, and the tables: the questions and, in the format zarr, the
metadata. The checksum of each file is recorded from the bytes that are written, before the file
appears. A file without a record is as good as missing: an extraction writes it again. Completing a
store compares the files with the record, and adds nothing to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lens_cache.errors import CorruptShardError, LensCacheError
from lens_cache.features.frozen_parts import CONFIG_FILE
from lens_cache.plan.plan import Plan
from lens_cache.store.commits import Commit, ObjectRecord, commit_path
from lens_cache.store.io.files import (
    crc32c,
    crc32c_of_file,
    new_folder,
    read_json,
    remove_folder,
)
from lens_cache.store.paths import FROZEN_FOLDER, PLAN_FOLDER, PLAN_SETTINGS, QUESTIONS_FILE

# The group of the record among the commits, and its number.
SHARED = "shared"
NUMBER = 0
# The parts of the record: two folders, and single files.
TABLES = "tables"
_FOLDERS = (PLAN_FOLDER, FROZEN_FOLDER)
_PARTS = (*_FOLDERS, TABLES)
# A store is not complete without these.
_REQUIRED = (f"{PLAN_FOLDER}/{PLAN_SETTINGS}", f"{FROZEN_FOLDER}/{CONFIG_FILE}", QUESTIONS_FILE)


@dataclass(frozen=True, eq=False)
class SharedFiles:
    """The shared files of a store as they were written.

    Attributes:
        root: The store.
        records: Size and checksum of each file, by its path in the store.
    """

    root: Path
    records: Mapping[str, ObjectRecord]

    @classmethod
    def load(cls, root: Path) -> SharedFiles:
        """Read the record; it is empty if nothing was written yet.

        Raises:
            CorruptShardError: If the record itself is damaged.
        """
        if not commit_path(root, SHARED, NUMBER).exists():
            return cls(root, {})
        try:
            objects = Commit.load(root, SHARED, NUMBER).objects
        except CorruptShardError as error:
            raise CorruptShardError(f"{error}; run `lens-cache verify STORE --repair`") from None
        return cls(root, {record.path: record for record in objects})

    def of(self, part: str) -> dict[str, ObjectRecord]:
        """Return the records of a part: a folder, or ``TABLES``."""
        return {path: record for path, record in self.records.items() if _part(path) == part}

    def has(self, folder: str, *, last: str) -> bool:
        """Return whether a folder is recorded, and each of its files is there with its size.

        Args:
            folder: Its name in the store.
            last: A file that it must have.
        """
        records = self.of(folder)
        return f"{folder}/{last}" in records and all(
            _size(self.root / path) == record.size for path, record in records.items()
        )

    def complaints(self) -> list[str]:
        """Read the files and return, for each that is not as recorded, what is wrong with it."""
        missing = [f"{name} was not recorded" for name in _REQUIRED if name not in self.records]
        return missing + [text for folder in _PARTS for text in self.complaints_of(folder)]

    def complaints_of(self, part: str) -> list[str]:
        """Return what ``complaints`` finds wrong with the recorded files of one part."""
        found = (record.complaint(self.root) for record in self.of(part).values())
        return [complaint for complaint in found if complaint is not None]

    def require(self, doing: str) -> None:
        """Compare every shared file with its record.

        Raises:
            CorruptShardError: If one is missing or damaged; ``doing`` is the start of the message.
        """
        complaints = self.complaints()
        if complaints:
            more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
            raise CorruptShardError(
                f"{doing}: {complaints[0]}{more}; run `lens-cache verify STORE --repair`"
            )

    def read(self, path: Path) -> bytes:
        """Return the bytes of a file; of a file that is not recorded, as they are.

        Raises:
            CorruptShardError: If they are not as recorded.
            OSError: If the file cannot be read.
        """
        data = path.read_bytes()
        record = self.records.get(path.relative_to(self.root).as_posix())
        if record is not None and (record.size, record.crc32c) != (len(data), crc32c(data)):
            raise CorruptShardError(
                f"reading {path}: it does not match its checksum; run `lens-cache verify STORE "
                "--repair`"
            )
        return data

    def replaced(self, part: str, records: Iterable[ObjectRecord]) -> SharedFiles:
        """Record a part again, instead of what was recorded of it; returns the new state."""
        kept = {path: record for path, record in self.records.items() if _part(path) != part}
        wanted = dict(sorted((kept | {record.path: record for record in records}).items()))
        if wanted != self.records:
            objects = list(wanted.values())
            Commit(group=SHARED, shard=NUMBER, objects=objects).save(self.root)
        return SharedFiles(self.root, wanted)

    @contextmanager
    def new_folder(self, folder: str, *, last: str) -> Iterator[Path]:
        """Fill a local folder that replaces a folder of the store when the block ends.

        What lies there is removed first: bytes without a record must never meet a record.

        Args:
            folder: Its name in the store.
            last: The file that is written last.
        """
        remove_folder(self.root / folder)
        with new_folder(self.root, self.root / folder, last=last) as scratch:
            yield scratch
            records = []
            for path in scratch.rglob("*"):
                if path.is_file():
                    crc, size = crc32c_of_file(path)
                    name = f"{folder}/{path.relative_to(scratch).as_posix()}"
                    records.append(ObjectRecord(path=name, size=size, crc32c=crc))
            self.replaced(folder, records)

    def copy(self, source: SharedFiles, folder: str, *, last: str) -> None:
        """Copy a folder of another store, unless it is here already.

        Raises:
            CorruptShardError: If it is not as the other store recorded it.
        """
        records = source.of(folder)
        if self.of(folder) == records and self.has(folder, last=last):
            return
        with self.new_folder(folder, last=last) as scratch:
            for name in records:
                (scratch / Path(name).name).write_bytes(source.read(source.root / name))

    def adopt_plan(self, digest: str, *, write: bool) -> bool:
        """Record the files of a plan that was written without a record, if it has a digest.

        Versions before this record left such plans in stores that they did not complete.

        Args:
            digest: That of the plan which the manifest was written for.
            write: Whether to save the record.

        Returns:
            Whether the store has that plan.
        """
        read: dict[str, bytes] = {}

        def keep(path: Path) -> bytes:
            read[f"{PLAN_FOLDER}/{path.name}"] = data = path.read_bytes()
            return data

        folder = self.root / PLAN_FOLDER
        try:
            if self.of(PLAN_FOLDER) or Plan.load(folder, keep).digest() != digest:
                return False
            read_json(folder / PLAN_SETTINGS, purpose="reading a plan's settings")
        except LensCacheError:
            return False
        keep(folder / PLAN_SETTINGS)
        if write:
            self.replaced(PLAN_FOLDER, [record_of(name, data) for name, data in read.items()])
        return True

    def forget(self, folder: str) -> SharedFiles:
        """Remove a folder, first its records; returns the new state."""
        left = self.replaced(folder, ())
        remove_folder(self.root / folder)
        return left


def record_of(path: str, data: bytes) -> ObjectRecord:
    """Return the record of a file, given by its path in the store and its content."""
    return ObjectRecord(path=path, size=len(data), crc32c=crc32c(data))


def _part(path: str) -> str:
    folder = path.split("/", 1)[0]
    return folder if folder in _FOLDERS else TABLES


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
