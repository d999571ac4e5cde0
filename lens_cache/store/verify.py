"""Check a store against its own records: nothing missing, nothing flipped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from lens_cache.errors import LensCacheError, one_line
from lens_cache.plan import Plan
from lens_cache.store.commits import (
    SHARED,
    Commit,
    ObjectRecord,
    Quarantine,
    committed_shards,
    quarantine_paths,
)
from lens_cache.store.files import crc32c, crc32c_of_file, reason
from lens_cache.store.layout import GROUPS, QUESTIONS_FILE, ArraySpec, Group, Questions
from lens_cache.store.manifest import Manifest
from lens_cache.store.reader import PLAN_FOLDER, missing_shards, shard_images
from lens_cache.store.remote import plain_errors
from lens_cache.store.shard_file import ShardReader, open_shard


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        group: The feature group, or ``store`` for what belongs to none.
        shard: The shard, where there is one.
        what: One line that names array and image where they are known.
    """

    group: str
    shard: int | None
    what: str


@dataclass
class Verification:
    """What a check found.

    Attributes:
        shards: Shards checked, counted per group.
        size: Bytes read.
        problems: Everything that is wrong; empty for a sound store.
    """

    shards: int = 0
    size: int = 0
    problems: list[Problem] = field(default_factory=list)


def verify_store(
    root: Path, *, threads: int = 4, progress: Callable[[int, int], None] | None = None
) -> Verification:
    """Compare every file of a store with its checksum, and the records with the plan.

    Args:
        root: The store.
        threads: Shards read at the same time.
        progress: Called with shards done and shards in all.

    Raises:
        StoreError: If there is no readable manifest to check against.
    """
    with plain_errors(root, "verifying the store"):
        return _verify(root, threads, progress)


def _verify(root: Path, threads: int, progress: Callable[[int, int], None] | None) -> Verification:
    manifest = Manifest.load(root)
    found = Verification()
    try:
        plan = Plan.load(root / PLAN_FOLDER)
    except LensCacheError as error:
        found.problems.append(_problem(one_line(error)))
        return found
    checker = _Checker(root, manifest, plan)
    found.problems += checker.shared_problems() + checker.missing()
    for group in GROUPS:
        found.problems += checker.read_quarantine(group)
    if not manifest.complete and not found.problems:
        found.problems.append(_problem("the manifest does not say complete; run extract again"))
    work = checker.committed()
    with ThreadPoolExecutor(threads) as pool:
        for done, (size, problems) in enumerate(pool.map(checker.check_shard, work), 1):
            found.shards += 1
            found.size += size
            found.problems += problems
            if progress is not None:
                progress(done, len(work))
    return found


class _Checker:
    """The records of a store, and what they say of its files."""

    def __init__(self, root: Path, manifest: Manifest, plan: Plan) -> None:
        self._root, self._manifest, self._plan = root, manifest, plan
        self._shard_size = manifest.config["store"]["shard_size"]
        self._shards = shard_images(plan.num_images, self._shard_size)
        self._quarantined: dict[str, set[str]] = {}
        try:
            self._questions: Questions | None = Questions.load(root / QUESTIONS_FILE)
        except LensCacheError:
            self._questions = None  # its checksum is wrong as well, and that is reported

    def shared_problems(self) -> list[Problem]:
        """Check what no shard owns: plan, questions, frozen parts, metadata."""
        problems = []
        if self._plan.digest() != self._manifest.plan["digest"]:
            problems.append(_problem("the plan is not the one the manifest was written for"))
        try:
            records = Commit.load(self._root, SHARED, 0).objects
        except LensCacheError as error:
            return [*problems, _problem(one_line(error))]
        complaints = [_object_complaint(self._root, record) for record in records]
        return problems + [_problem(complaint) for complaint in complaints if complaint]

    def missing(self) -> list[Problem]:
        """Return the shards without a commit record."""
        return [
            Problem(group=group, shard=number, what="not extracted yet")
            for group, numbers in missing_shards(self._root, len(self._shards)).items()
            for number in numbers
        ]

    def read_quarantine(self, group: Group) -> list[Problem]:
        """Note which images a group has set aside; returns which records cannot be read."""
        known, problems = set(), []
        for path in quarantine_paths(self._root, group):
            try:
                known.add(Quarantine.load(path).image_id)
            except (LensCacheError, TypeError) as error:
                images = self._plan.images["image_id"].to_pylist()
                found = path.stem in images
                shard = images.index(path.stem) // self._shard_size if found else None
                problems.append(Problem(group=group, shard=shard, what=one_line(error)))
        self._quarantined[group] = known
        return problems

    def committed(self) -> list[tuple[Group, int]]:
        """Return what can be checked."""
        return [
            (group, number)
            for group in GROUPS
            for number in sorted(
                committed_shards(self._root, group) & set(range(len(self._shards)))
            )
        ]

    def check_shard(self, which: tuple[Group, int]) -> tuple[int, list[Problem]]:
        """Check one commit and every byte it vouches for; returns bytes read and problems."""
        group, shard = which
        try:
            commit = Commit.load(self._root, group, shard)
        except (LensCacheError, KeyError, TypeError) as error:
            return 0, [Problem(group=group, shard=shard, what=one_line(error))]
        complaints: list[str] = []
        expected = [self._plan.image(image).image_id for image in self._shards[shard]]
        if list(commit.images) != sorted(expected):
            complaints.append("its commit record names other images than the plan")
        complaints += [
            f"image {image_id} is neither stored nor quarantined"
            for image_id, checksums in commit.images.items()
            if not checksums and image_id not in self._quarantined[group]
        ]
        specs = self._manifest.arrays[group]
        arrays = {spec.object_path(shard): (name, spec) for name, spec in specs.items()}
        for record in commit.objects:
            complaint = _object_complaint(self._root, record)
            if complaint is not None:
                blamed = self._blame(commit, *arrays[record.path])
                complaints.append(f"{complaint}; {blamed}")
        size = sum(record.size for record in commit.objects)
        return size, [Problem(group=group, shard=shard, what=text) for text in complaints]

    def _blame(self, commit: Commit, name: str, spec: ArraySpec) -> str:
        """Return which images of a damaged file are damaged."""
        path = self._root / spec.object_path(commit.shard)
        try:
            reader = open_shard(path, num_chunks=spec.chunks_per_shard)
        except LensCacheError:
            return "no image of it can be read"
        bad = []
        for position, image in enumerate(self._shards[commit.shard]):
            planned = self._plan.image(image)
            expected = commit.images.get(planned.image_id, {}).get(name)
            if expected is None:
                continue
            parts = self._image_bytes(reader, spec, commit.shard, position, image)
            if crc32c(b"".join(parts)) != expected:
                bad.append(f"{planned.image_id} ({planned.path})")
        return "damaged: " + ", ".join(bad) if bad else "no image is touched, only padding or index"

    def _image_bytes(
        self, reader: ShardReader, spec: ArraySpec, shard: int, position: int, image: int
    ) -> Iterator[bytes]:
        """Yield an image's bytes in one array, straight from the shard."""
        if not spec.path.endswith("text_tokens"):
            chunk = reader.chunk(position)
            yield b"" if chunk is None else chunk.tobytes()
            return
        queries = self._plan.query_range(image)
        if self._questions is None or not queries:
            return
        start = int(self._questions.offsets[queries.start]) - shard * spec.shard[0]
        length = sum(len(self._questions.token_ids[query]) for query in queries)
        for number, where in spec.row_slices(start, length):
            chunk = reader.chunk(number)
            yield b"" if chunk is None else chunk[where].tobytes()


def _object_complaint(root: Path, record: ObjectRecord) -> str | None:
    """Return what is wrong with a file, or nothing."""
    try:
        crc, size = crc32c_of_file(root / record.path)
    except OSError as error:
        return f"{record.path}: {reason(error)}"
    if size != record.size:
        return f"{record.path} has {size} bytes, {record.size} were committed"
    if crc != record.crc32c:
        return f"{record.path} does not match its checksum"
    return None


def _problem(what: str) -> Problem:
    return Problem(group="store", shard=None, what=what)
