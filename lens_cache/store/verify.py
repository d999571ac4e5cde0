"""Compare a store with its own records: find missing files and flipped bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from lens_cache.errors import CorruptShardError, LensCacheError, one_line
from lens_cache.plan.plan import Plan
from lens_cache.store.catalogue import Catalogue
from lens_cache.store.commits import Commit, ObjectRecord, committed_shards, missing_shards
from lens_cache.store.feature_reader import FeatureReader
from lens_cache.store.formats import arrays_of_objects, open_features
from lens_cache.store.io.files import crc32c
from lens_cache.store.io.remote import plain_errors, store_path
from lens_cache.store.layout import GROUPS, Group, shard_images
from lens_cache.store.manifest import Manifest
from lens_cache.store.paths import PLAN_FOLDER, refuse_run
from lens_cache.store.quarantine import Quarantine, quarantine_paths
from lens_cache.store.shared import SharedFiles


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One error in a store.

    Attributes:
        group: The feature group, or ``store`` for files of no group.
        shard: The shard; None for files of no shard.
        what: One line that names file and image if they are known.
    """

    group: str
    shard: int | None
    what: str


@dataclass
class Verification:
    """The result of a check.

    Attributes:
        shards: Shards checked, counted per group.
        size: Bytes read.
        problems: All errors.
        whole: Whether the shards were checked; without a plan they cannot be.
    """

    shards: int = 0
    size: int = 0
    whole: bool = True
    problems: list[Problem] = field(default_factory=list)


def verify_store(
    root: str | Path, *, threads: int = 4, progress: Callable[[int, int], None] | None = None
) -> Verification:
    """Compare every file of a store with its checksum, and the records with the plan.

    Args:
        root: The store.
        threads: Shards read at the same time.
        progress: Called with shards done and shards in all.

    Raises:
        StoreError: If there is no readable manifest to check against.
    """
    root = store_path(root)
    with plain_errors(root, "verifying the store"):
        refuse_run(root, "verifying")
        return _verify(root, threads, progress)


def _verify(root: Path, threads: int, progress: Callable[[int, int], None] | None) -> Verification:
    manifest = Manifest.load(root)
    found = Verification()
    try:
        shared = SharedFiles.load(root)
    except LensCacheError as error:
        found.problems.append(_problem(one_line(error)))
        shared = SharedFiles(root, {})
    else:
        found.problems += map(_problem, shared.complaints())
    try:
        plan = Plan.load(root / PLAN_FOLDER, shared.read)
    except LensCacheError as error:
        found.whole = False
        if not found.problems:
            found.problems.append(_problem(one_line(error)))
        return found
    if plan.digest() != manifest.plan.digest:
        found.problems.append(_problem("the plan is not the one the manifest was written for"))
    checker = _Checker(root, manifest, plan, shared)
    found.problems += checker.missing() + checker.unknown()
    for group in GROUPS:
        found.problems += checker.read_quarantine(group)
    if not manifest.complete and not found.problems:
        found.problems.append(_problem("the manifest is not marked as complete; run extract again"))
    shards = range(checker.num_shards)
    with ThreadPoolExecutor(threads) as pool:
        for done, (count, size, problems) in enumerate(pool.map(checker.check_shard, shards), 1):
            found.shards += count
            found.size += size
            found.problems += problems
            if progress is not None:
                progress(done, len(shards))
    return found


class _Checker:
    """Compares the files of a store with its records."""

    def __init__(self, root: Path, manifest: Manifest, plan: Plan, shared: SharedFiles) -> None:
        self._root, self._manifest, self._plan = root, manifest, plan
        self._shard_size = manifest.store.shard_size
        self._shards = shard_images(plan.num_images, self._shard_size)
        self._quarantined: dict[str, set[str]] = {}
        self._committed = {group: committed_shards(root, group) for group in GROUPS}
        self._features: FeatureReader | None = None
        # Without questions, rows cannot be attributed to images; that damage is reported elsewhere.
        with contextlib.suppress(LensCacheError):
            self._features = open_features(root, Catalogue.load(manifest, shared), fetch=True)

    @property
    def num_shards(self) -> int:
        """Shards of each group."""
        return len(self._shards)

    def missing(self) -> list[Problem]:
        """Return the shards without a commit record."""
        return [
            Problem(group=group, shard=number, what="not extracted yet")
            for group, numbers in missing_shards(self._root, len(self._shards)).items()
            for number in numbers
        ]

    def read_quarantine(self, group: Group) -> list[Problem]:
        """Read the quarantine records of a group; returns those that cannot be read."""
        known, problems = set(), []
        for path in quarantine_paths(self._root, group):
            try:
                known.add(Quarantine.load(path).image_id)
            except LensCacheError as error:
                images = self._plan.images["image_id"].to_pylist()
                found = path.stem in images
                shard = images.index(path.stem) // self._shard_size if found else None
                problems.append(Problem(group=group, shard=shard, what=one_line(error)))
        self._quarantined[group] = known
        return problems

    def check_shard(self, shard: int) -> tuple[int, int, list[Problem]]:
        """Check the commits of a shard and every byte of their files.

        Returns:
            Commits checked, bytes read, and problems.
        """
        commits: dict[Group, Commit] = {}
        problems: list[Problem] = []
        for group in GROUPS:
            if shard in self._committed[group]:
                try:
                    commits[group] = self._commit(group, shard)
                except LensCacheError as error:
                    problems.append(Problem(group=group, shard=shard, what=one_line(error)))
        for commit in commits.values():
            problems += self._image_problems(commit)
        # A file may have parts of every group; it is read once.
        records = {record for commit in commits.values() for record in commit.objects}
        for record in sorted(records, key=lambda record: (record.path, record.crc32c)):
            complaint = record.complaint(self._root)
            if complaint is not None:
                problems += self._blame(commits, record, complaint)
        size = sum({record.path: record.size for record in records}.values())
        return len(commits), size, problems

    def _commit(self, group: Group, shard: int) -> Commit:
        """Read a commit record; raises CorruptShardError if it is not that of this shard."""
        content = self._manifest.content_digest(group)
        commit = Commit.load(self._root, group, shard, content)
        expected = sorted(arrays_of_objects(self._manifest, group, shard))
        if sorted(record.path for record in commit.objects) != expected:
            raise CorruptShardError(
                f"its commit record names other files than {', '.join(expected)}"
            )
        return commit

    def unknown(self) -> list[Problem]:
        """Return the commit records of shards that the plan does not have."""
        return [
            Problem(group=group, shard=number, what="the plan has no such shard")
            for group, numbers in self._committed.items()
            for number in sorted(numbers - set(range(self.num_shards)))
        ]

    def _image_problems(self, commit: Commit) -> list[Problem]:
        """Compare the images of a commit with plan and quarantine."""
        complaints = []
        expected = [self._plan.image(image).image_id for image in self._shards[commit.shard]]
        if list(commit.images) != sorted(expected):
            complaints.append("its commit record names other images than the plan")
        complaints += [
            f"image {image_id} is neither stored nor quarantined"
            for image_id, checksums in commit.images.items()
            if not checksums and image_id not in self._quarantined[commit.group]
        ]
        complaints += [
            f"image {image_id} is stored, but has a quarantine record"
            for image_id, checksums in commit.images.items()
            if checksums and image_id in self._quarantined[commit.group]
        ]
        return [Problem(group=commit.group, shard=commit.shard, what=text) for text in complaints]

    def _blame(
        self, commits: Mapping[Group, Commit], record: ObjectRecord, complaint: str
    ) -> list[Problem]:
        """Return a problem per group with images in a damaged part of a file.

        If no image is affected, all groups of the file must be written again.
        """
        owners = {group: commit for group, commit in commits.items() if record in commit.objects}
        if self._features is None:
            blamed = dict.fromkeys(owners, "its images cannot be told apart")
        else:
            found = {group: self._damaged(commit, record) for group, commit in owners.items()}
            blamed = {group: text for group, text in found.items() if text}
            if not blamed:
                blamed = dict.fromkeys(owners, "no image is affected, only bytes between them")
        return [
            Problem(group=group, shard=commits[group].shard, what=f"{complaint}; {text}")
            for group, text in blamed.items()
        ]

    def _damaged(self, commit: Commit, record: ObjectRecord) -> str:
        """Return a text that names the damaged images of a group; empty if there are none."""
        assert self._features is not None
        files = arrays_of_objects(self._manifest, cast(Group, commit.group), commit.shard)
        bad, readable = [], False
        for image in self._shards[commit.shard]:
            planned = self._plan.image(image)
            checksums = commit.images.get(planned.image_id, {})
            names = [name for name in files[record.path] if name in checksums]
            found = {name: self._part_crc(name, image) for name in names}
            readable |= any(crc is not None for crc in found.values())
            if any(crc != checksums[name] for name, crc in found.items()):
                bad.append(f"{planned.image_id} ({planned.path})")
        if bad and not readable:
            return "no image of it can be read"
        return "damaged: " + ", ".join(bad) if bad else ""

    def _part_crc(self, name: str, image: int) -> int | None:
        """Return the checksum of an image's part of an array; None if it cannot be read."""
        assert self._features is not None
        try:
            return crc32c(self._features.part(name, image).tobytes())
        except LensCacheError:
            return None


def _problem(what: str) -> Problem:
    return Problem(group="store", shard=None, what=what)
