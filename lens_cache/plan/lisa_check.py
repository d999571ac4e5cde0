"""Look at LISA's folder before anything is planned: what is missing, broken, in several sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lens_cache.config.data import DataConfig, LisaConfig
from lens_cache.datasets.base import SegmentationDataset
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.evaluation_images import benchmark_sets, coco_id
from lens_cache.datasets.lisa.published_counts import PublishedCount, published_count
from lens_cache.datasets.lisa.sets import MissingSetError, SetName, parse_set
from lens_cache.datasets.mask_parsing import check_size
from lens_cache.datasets.questions import is_training
from lens_cache.datasets.source import CHUNK, DataSource, Mapper
from lens_cache.errors import ConfigError, DatasetError, ImageError, one_line
from lens_cache.images.decode import content_id, read_image

# Complete releases have a few images without any label; more of them are another release.
_MOST_UNUSABLE = 0.01


class Problem(NamedTuple):
    """Something that planning will set aside."""

    path: str
    what: str
    reason: str


class Seen(NamedTuple):
    """What is known of an image of a set once it was read; ``content`` is empty if it cannot be."""

    path: str
    queries: int
    content: str
    coco: int | None
    unreadable: str
    rejected: tuple[Problem, ...]


@dataclass
class SetCheck:
    """What was found of a set.

    Attributes:
        name: The set, as ``data.lisa.sets`` names it.
        missing: What is not there and where to get it; empty if it is.
        broken: Why it cannot be opened; empty if it can.
        images: Its images.
        queries: What can be asked about them; None if they were not read.
        published: How many there should be.
        unreadable: Image files that cannot be decoded or are not there.
        unusable: Images about which nothing can be asked since their labels cannot be used.
        rejected: Entries that cannot be used.
    """

    name: str
    missing: str = ""
    broken: str = ""
    images: int = 0
    queries: int | None = None
    published: PublishedCount | None = None
    unreadable: list[Problem] = field(default_factory=list)
    unusable: int = 0
    rejected: list[Problem] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether it is there and can be trained or tested on."""
        few = self.unusable <= _MOST_UNUSABLE * self.images
        return not (self.missing or self.broken or self.unreadable) and few


class Overlap(NamedTuple):
    """Images that two sets share; ``leak`` if one trains and the other tests.

    ``by_content`` counts equal files, ``by_coco_id`` equal COCO numbers; ``first`` are paths in
    ``one``. ``training`` says that both train.
    """

    one: str
    other: str
    by_content: int
    by_coco_id: int
    leak: bool
    training: bool
    first: tuple[str, ...]


@dataclass
class FolderCheck:
    """What was found in LISA's folder."""

    root: Path
    quick: bool
    sets: list[SetCheck]
    overlaps: list[Overlap]

    @property
    def good(self) -> bool:
        """Whether every set asked for is."""
        return all(found.good for found in self.sets)


def check_folder(
    root: Path,
    wanted: Sequence[str],
    mapper: Mapper,
    progress: Callable[[str, int, int], None],
    *,
    quick: bool = False,
) -> FolderCheck:
    """Open every set, and read every image and label of it unless ``quick``.

    Args:
        root: LISA's folder.
        wanted: Sets as ``data.lisa.sets`` names them; all training splits and benchmarks if empty.
        mapper: How the reading is spread.
        progress: Called with (the set, images read, images in all).
        quick: Only look whether the files that make up a set are there, and count images.

    Raises:
        ConfigError: If there is no such set.
        DatasetError: If ``root`` is not a folder.
    """
    if not root.is_dir():
        raise DatasetError(f"checking {root}: it is not a folder; give the folder of LISA's sets")
    names = [parse_set(text, KINDS) for text in wanted or (*KINDS, *benchmark_sets())]
    checks, seen = [], {}
    for name in names:
        check, images = _check_set(root, name, mapper, progress, quick)
        checks.append(check)
        seen[name] = images
    return FolderCheck(root, quick, checks, _overlaps(seen))


def _check_set(
    root: Path,
    name: SetName,
    mapper: Mapper,
    progress: Callable[[str, int, int], None],
    quick: bool,
) -> tuple[SetCheck, list[Seen]]:
    """Open and read one set."""
    found = SetCheck(str(name), published=published_count(name))
    config = DataConfig(kind="lisa", root=root, lisa=LisaConfig(sets=(str(name),)))
    source = DataSource(config)
    try:
        dataset = source.open()
    except MissingSetError as error:
        return replace(found, missing=str(error)), []
    except (DatasetError, ConfigError) as error:
        return replace(found, broken=str(error)), []
    found.images = len(dataset)
    if quick:
        return found, []
    found.rejected += [Problem(str(dataset.source), e.what, e.reason) for e in dataset.rejected]
    indices = range(len(dataset))
    chunks = [indices[start : start + CHUNK] for start in indices[::CHUNK]]
    images: list[Seen] = []
    for part in mapper(source, examine, chunks):
        images += part
        progress(str(name), len(images), len(indices))
    for image in images:
        found.rejected += image.rejected
        if image.unreadable:
            found.unreadable.append(Problem(image.path, "image", image.unreadable))
    found.queries = sum(image.queries for image in images)
    found.unusable = sum(bool(image.rejected) and not image.queries for image in images)
    return found, images


def examine(source: DataSource, indices: Sequence[int]) -> list[Seen]:
    """Read some images and everything the set says about them."""
    dataset, root = source.open(), source.config.root
    assert root is not None
    return [_examine(dataset, root, index) for index in indices]


def _examine(dataset: SegmentationDataset, root: Path, index: int) -> Seen:
    try:
        record = dataset[index]
    except (DatasetError, OSError) as error:
        problem = Problem(str(dataset.source), f"record {index + 1}", one_line(error))
        return Seen(str(dataset.source), 0, "", None, "", (problem,))
    path, coco = record.path.as_posix(), coco_id(PurePosixPath(record.path))
    rejected = [Problem(path, entry.what, entry.reason) for entry in record.rejected]
    try:
        data = (root / record.path).read_bytes()
        height, width = read_image(data).shape[:2]
    except (ImageError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or one_line(error)
        return Seen(path, len(record.queries), "", coco, reason, tuple(rejected))
    usable = 0
    for query in record.queries:
        try:
            check_size(query.target, height, width)
            usable += 1
        except ValueError as error:
            rejected.append(Problem(path, f"query {query.instruction!r}", str(error)))
    return Seen(path, usable, content_id(data), coco, "", tuple(rejected))


def _overlaps(seen: dict[SetName, list[Seen]]) -> list[Overlap]:
    """Compare every two sets, but for a set with itself."""
    contents = {n: {i.content: i.path for i in found if i.content} for n, found in seen.items()}
    numbers = {
        n: {i.coco: i.path for i in found if i.coco is not None} for n, found in seen.items()
    }
    found = []
    for one, other in combinations(seen, 2):
        if is_training(other.split) and not is_training(one.split):
            one, other = other, one
        same = contents[one].keys() & contents[other].keys()
        equal = numbers[one].keys() & numbers[other].keys()
        if same or equal:
            paths = {contents[one][key] for key in same} | {numbers[one][key] for key in equal}
            leak = is_training(one.split) and not is_training(other.split)
            first = tuple(sorted(paths)[:3])
            both = is_training(one.split) and is_training(other.split)
            names = str(one), str(other)
            found.append(Overlap(*names, len(same), len(equal), leak, both, first))
    return found
