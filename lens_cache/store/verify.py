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
    commit_path,
    quarantine_paths,
)
from lens_cache.store.files import crc32c, crc32c_of_file
from lens_cache.store.layout import GROUPS, QUESTIONS_FILE, ArraySpec, Group, Questions
from lens_cache.store.manifest import Manifest
from lens_cache.store.reader import PLAN_FOLDER, missing_shards, shard_images
from lens_cache.store.shard_file import ShardReader


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
    manifest = Manifest.load(root)
    found = Verification()
    try:
        plan = Plan.load(root / PLAN_FOLDER)
    except LensCacheError as error:
        found.problems.append(_problem(one_line(error)))
        return found
    if plan.digest() != manifest.plan["digest"]:
        found.problems.append(_problem("the plan is not the one the manifest was written for"))
    found.problems += _shared_problems(root)
    shard_size = manifest.config["store"]["shard_size"]
    shards = shard_images(plan.num_images, shard_size)
    for group, numbers in missing_shards(root, len(shards)).items():
        found.problems += [
            Problem(group=group, shard=number, what="not extracted yet") for number in numbers
        ]
    if not manifest.complete and not found.problems:
        found.problems.append(_problem("the manifest does not say complete; run extract again"))
    work = [
        (group, number)
        for group in GROUPS
        for number in range(len(shards))
        if commit_path(root, group, number).exists()
    ]
    text_rows = _TextRows(plan, root)
    known: dict[str, set[str]] = {}
    for group in GROUPS:
        known[group], problems = _quarantine(root, group, plan, shard_size)
        found.problems += problems
    with ThreadPoolExecutor(threads) as pool:
        checks = pool.map(
            lambda item: _check_shard(
                root,
                manifest,
                plan,
                item[0],
                item[1],
                shards[item[1]],
                text_rows,
                known[item[0]],
            ),
            work,
        )
        for done, (size, problems) in enumerate(checks, 1):
            found.shards += 1
            found.size += size
            found.problems += problems
            if progress is not None:
                progress(done, len(work))
    return found


class _TextRows:
    """Where each image's text tokens lie in the flat array, or nothing if that is unknown."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self._plan = plan
        try:
            self._questions: Questions | None = Questions.load(root / QUESTIONS_FILE)
        except LensCacheError:
            self._questions = None

    def of(self, image: int) -> tuple[int, int]:
        """Return first row and number of rows."""
        queries = self._plan.query_range(image)
        if self._questions is None or not queries:
            return 0, 0
        rows = sum(len(self._questions.token_ids[query]) for query in queries)
        return int(self._questions.offsets[queries.start]), rows


def _shared_problems(root: Path) -> list[Problem]:
    """Check what no shard owns: plan, questions, frozen parts, metadata."""
    problems = []
    try:
        for record in Commit.load(root, SHARED, 0).objects:
            complaint = _object_complaint(root, record)
            if complaint is not None:
                problems.append(_problem(complaint))
    except LensCacheError as error:
        problems.append(_problem(one_line(error)))
    return problems


def _quarantine(
    root: Path, group: Group, plan: Plan, shard_size: int
) -> tuple[set[str], list[Problem]]:
    """Return the images that a group has set aside, and which records cannot be read."""
    known, problems = set(), []
    for path in quarantine_paths(root, group):
        try:
            known.add(Quarantine.load(path).image_id)
        except (LensCacheError, TypeError) as error:
            images = plan.images["image_id"].to_pylist()
            shard = images.index(path.stem) // shard_size if path.stem in images else None
            problems.append(Problem(group=group, shard=shard, what=one_line(error)))
    return known, problems


def _check_shard(
    root: Path,
    manifest: Manifest,
    plan: Plan,
    group: Group,
    shard: int,
    images: range,
    text_rows: _TextRows,
    known: set[str],
) -> tuple[int, list[Problem]]:
    """Check one commit and every byte it vouches for; ``known`` images are in quarantine."""
    try:
        commit = Commit.load(root, group, shard)
    except (LensCacheError, KeyError, TypeError) as error:
        return 0, [Problem(group=group, shard=shard, what=one_line(error))]
    complaints: list[str] = []
    expected = [plan.image(image).image_id for image in images]
    if list(commit.images) != sorted(expected):
        complaints.append("its commit record names other images than the plan")
    complaints += [
        f"image {image_id} is neither stored nor quarantined"
        for image_id, checksums in commit.images.items()
        if not checksums and image_id not in known
    ]
    size = 0
    arrays = {
        spec.object_path(shard): (name, spec) for name, spec in manifest.arrays[group].items()
    }
    for record in commit.objects:
        complaint = _object_complaint(root, record)
        size += record.size
        if complaint is not None:
            name, spec = arrays[record.path]
            blamed = _blame(root, commit, name, spec, shard, images, plan, text_rows)
            complaints.append(f"{complaint}; {blamed}")
    return size, [Problem(group=group, shard=shard, what=text) for text in complaints]


def _object_complaint(root: Path, record: ObjectRecord) -> str | None:
    """Return what is wrong with a file, or nothing."""
    try:
        crc, size = crc32c_of_file(root / record.path)
    except OSError as error:
        return f"{record.path}: {error.strerror}"
    if size != record.size:
        return f"{record.path} has {size} bytes, {record.size} were committed"
    if crc != record.crc32c:
        return f"{record.path} does not match its checksum"
    return None


def _blame(
    root: Path,
    commit: Commit,
    name: str,
    spec: ArraySpec,
    shard: int,
    images: range,
    plan: Plan,
    text_rows: _TextRows,
) -> str:
    """Return which images of a damaged file are damaged."""
    try:
        reader = ShardReader(root / spec.object_path(shard), num_chunks=spec.chunks_per_shard)
    except LensCacheError:
        return "no image of it can be read"
    bad = []
    for position, image in enumerate(images):
        planned = plan.image(image)
        expected = commit.images.get(planned.image_id, {}).get(name)
        if expected is None:
            continue
        data = b"".join(_image_bytes(reader, spec, position, shard, text_rows.of(image)))
        if crc32c(data) != expected:
            bad.append(f"{planned.image_id} ({planned.path})")
    return "damaged: " + ", ".join(bad) if bad else "no image is touched, only padding or index"


def _image_bytes(
    reader: ShardReader, spec: ArraySpec, position: int, shard: int, rows: tuple[int, int]
) -> Iterator[bytes]:
    """Yield an image's bytes in one array, straight from the shard."""
    if not spec.path.endswith("text_tokens"):
        chunk = reader.chunk(position)
        yield b"" if chunk is None else chunk.tobytes()
        return
    per_chunk = spec.chunk[0]
    row_bytes = spec.chunk_bytes // per_chunk
    start, stop = rows[0] - shard * spec.shard[0], rows[0] - shard * spec.shard[0] + rows[1]
    for number in range(start // per_chunk, -(-stop // per_chunk)):
        chunk = reader.chunk(number)
        first = max(start - number * per_chunk, 0)
        last = min(stop - number * per_chunk, per_chunk)
        yield b"" if chunk is None else chunk[first * row_bytes : last * row_bytes].tobytes()


def _problem(what: str) -> Problem:
    return Problem(group="store", shard=None, what=what)
