"""Check LISA's folder before planning: missing sets, broken files, images in several sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from lens_cache.config.data import DataConfig, LisaConfig
from lens_cache.datasets.base import SegmentationDataset
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.evaluation_images import benchmark_sets, coco_id
from lens_cache.datasets.lisa.published_counts import PublishedCount, published_count
from lens_cache.datasets.lisa.sets import MissingSetError, SetKind, SetName, parse_set
from lens_cache.datasets.mask_parsing import check_size
from lens_cache.datasets.questions import is_training
from lens_cache.datasets.source import CHUNK, DataSource, Mapper
from lens_cache.errors import ConfigError, DatasetError, ImageError, one_line
from lens_cache.images.decode import content_id, read_image
from lens_cache.progress import Progress

# Complete releases have a few images without any label; a larger share means another release.
_MOST_UNUSABLE = 0.01


class Problem(NamedTuple):
    """An entry that planning will skip, and the reason."""

    path: str
    what: str
    reason: str


class CheckedImage(NamedTuple):
    """An image of a set after it was read.

    Attributes:
        path: The file, relative to LISA's folder.
        queries: Number of usable queries.
        content: Hash of the file's content; empty if it is unreadable.
        coco: COCO id, if the path has one.
        unreadable: Why the file is unreadable; empty if it is readable.
        rejected: Entries that are not usable.
    """

    path: str
    queries: int
    content: str
    coco: int | None
    unreadable: str
    rejected: tuple[Problem, ...]


@dataclass
class SetCheck:
    """The result of the check of a set.

    Attributes:
        name: The set, in the form of ``data.lisa.sets``.
        missing: The missing files and where to get them; empty if none is missing.
        broken: Why it cannot be opened; empty if it can.
        images: Number of images.
        queries: Number of usable queries; None if the images were not read.
        published: The published numbers.
        unreadable: Image files that are missing or cannot be decoded.
        unusable: Number of images without a usable query because of their labels.
        rejected: Entries that are not usable.
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
        """Whether the set is complete and usable."""
        few = self.unusable <= _MOST_UNUSABLE * self.images
        return not (self.missing or self.broken or self.unreadable) and few


class Overlap(NamedTuple):
    """Images that two sets share.

    Attributes:
        one: A set; the training set, if only one of them is.
        other: The other set.
        by_content: Number of files with equal content.
        by_coco_id: Number of equal COCO ids.
        leak: Whether ``one`` is a training set and ``other`` an evaluation set.
        training: Whether both are training sets.
        first: Paths of the first shared images, in ``one``.
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
    """The result of the check of LISA's folder."""

    root: Path
    quick: bool
    sets: list[SetCheck]
    overlaps: list[Overlap]

    @property
    def good(self) -> bool:
        """Whether all checked sets are good."""
        return all(found.good for found in self.sets)


def check_folder(
    root: Path,
    wanted: Sequence[str],
    mapper: Mapper,
    progress: Progress,
    *,
    quick: bool = False,
) -> FolderCheck:
    """Open every set, and read all its images and labels unless ``quick``.

    Args:
        root: LISA's folder.
        wanted: Sets in the form of ``data.lisa.sets``; all training splits and benchmarks if empty.
        mapper: Reads in parallel.
        progress: Called with (the set, images read, images in all).
        quick: Only check that the files of a set exist, and count its images.

    Raises:
        ConfigError: If there is no such set.
        DatasetError: If ``root`` is not a folder.
    """
    if not root.is_dir():
        raise DatasetError(f"checking {root}: it is not a folder; give the folder of LISA's sets")
    known = [text for text in (*KINDS, *benchmark_sets()) if _kind(text).expected(root)]
    names = [parse_set(text, KINDS) for text in wanted or known]
    checks: list[SetCheck] = []
    seen: dict[SetName, list[CheckedImage]] = {}
    for name in names:
        check, images = _check_set(root, name, mapper, progress, quick)
        checks.append(check)
        seen[name] = images
    return FolderCheck(root, quick, checks, _overlaps(seen))


def _kind(text: str) -> SetKind:
    return KINDS[text.partition("|")[0]]


def _check_set(
    root: Path,
    name: SetName,
    mapper: Mapper,
    progress: Progress,
    quick: bool,
) -> tuple[SetCheck, list[CheckedImage]]:
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
    images: list[CheckedImage] = []
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


def examine(source: DataSource, indices: Sequence[int]) -> list[CheckedImage]:
    """Read some images and their annotations."""
    root = source.config.root
    assert root is not None
    return [_examine(source.open(), root, index) for index in indices]


def _examine(dataset: SegmentationDataset, root: Path, index: int) -> CheckedImage:
    try:
        record = dataset[index]
    except (DatasetError, OSError) as error:
        problem = Problem(str(dataset.source), f"record {index + 1}", one_line(error))
        return CheckedImage(str(dataset.source), 0, "", None, "", (problem,))
    path = record.path.as_posix()
    coco = coco_id(record.path)
    rejected = [Problem(path, entry.what, entry.reason) for entry in record.rejected]
    try:
        data = (root / record.path).read_bytes()
        height, width = read_image(data).shape[:2]
    except (ImageError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        reason = reason or one_line(error)
        return CheckedImage(path, len(record.queries), "", coco, reason, tuple(rejected))
    usable = 0
    for query in record.queries:
        try:
            check_size(query.target, height, width)
            usable += 1
        except ValueError as error:
            rejected.append(Problem(path, f"query {query.instruction!r}", str(error)))
    return CheckedImage(path, usable, content_id(data), coco, "", tuple(rejected))


def _overlaps(seen: dict[SetName, list[CheckedImage]]) -> list[Overlap]:
    """Compare all pairs of distinct sets."""
    contents = {n: {i.content: i.path for i in found if i.content} for n, found in seen.items()}
    coco_ids = {
        n: {i.coco: i.path for i in found if i.coco is not None} for n, found in seen.items()
    }
    found = []
    for one, other in combinations(seen, 2):
        if is_training(other.split) and not is_training(one.split):
            one, other = other, one
        same_content = contents[one].keys() & contents[other].keys()
        same_id = coco_ids[one].keys() & coco_ids[other].keys()
        if not same_content and not same_id:
            continue
        paths = {contents[one][key] for key in same_content}
        paths |= {coco_ids[one][key] for key in same_id}
        found.append(
            Overlap(
                one=str(one),
                other=str(other),
                by_content=len(same_content),
                by_coco_id=len(same_id),
                leak=is_training(one.split) and not is_training(other.split),
                training=is_training(one.split) and is_training(other.split),
                first=tuple(sorted(paths)[:3]),
            )
        )
    return found
