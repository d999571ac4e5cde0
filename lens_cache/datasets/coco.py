"""COCO: ``instances_*.json`` or ``panoptic_*.json``, one instruction per category of an image.

``data.split`` names one split or several, separated by commas.

    root/annotations/instances_train2017.json
    root/annotations/panoptic_train2017.json  and  root/annotations/panoptic_train2017/*.png
    root/train2017/*.jpg  (or root/images/train2017, or root joined with file_name)
    root/train/_annotations.coco.json  next to its images, as exported by labelling tools

Images are sorted by file name. An image without annotations of the selected categories is not part
of the dataset and does not count towards ``limit``.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import (
    ImageRecord,
    Rejected,
    SegmentationDataset,
    brief,
    dataset_root,
    is_text,
    relative_path,
)
from lens_cache.datasets.coco_index import by_id, by_image
from lens_cache.datasets.coco_masks import CocoImage, build_queries, instance_areas, panoptic_areas
from lens_cache.datasets.joined import JoinedDataset
from lens_cache.datasets.json_files import read_lists
from lens_cache.datasets.questions import clean_class_name
from lens_cache.errors import ConfigError, DatasetError

LISTS = ("images", "annotations", "categories")
_EXPORTED = "_annotations.coco.json"


@dataclass(frozen=True)
class _Source:
    """The annotation file to read, and its folder of panoptic PNG files."""

    kind: str
    path: Path
    pngs: Path


def open_coco(config: DataConfig) -> SegmentationDataset:
    """Open the splits of a COCO folder that the settings name, as one dataset.

    Raises:
        ConfigError: If a split or a category does not exist, or a split is named twice.
        DatasetError: If an annotation file is missing or not in COCO's format.
    """
    splits = [split.strip() for split in _choose_splits(dataset_root(config), config).split(",")]
    if len(set(splits)) < len(splits):
        raise ConfigError(
            f"opening the coco dataset {config.root}: data.split={config.split} names a split twice"
        )
    parts = [CocoDataset(dataclasses.replace(config, split=split)) for split in splits]
    return parts[0] if len(parts) == 1 else JoinedDataset("coco", parts)


class CocoDataset(SegmentationDataset):
    """Images of one split that have annotations; see the module docstring.

    Raises:
        ConfigError: If a category does not exist.
        DatasetError: If the annotation file is missing or not in COCO's format.
    """

    name = "coco"

    def __init__(self, config: DataConfig) -> None:
        self._root = dataset_root(config)
        self._split = config.split or ""
        self._source = _choose_source(self._root, self._split, config)
        document = read_lists(self._source.path, *LISTS)
        names = category_names(document["categories"], self._source.path)
        self._known = {number: clean_class_name(name) for number, name in names.items()}
        self._wanted = _wanted_categories(names, config.categories)
        images, self.rejected = _index(document, self._source.path)
        images = [image for image in images if self._is_relevant(image)]
        self._images = sorted(images, key=lambda image: image.path.as_posix())[: config.limit]
        self.source = PurePosixPath(self._source.path.relative_to(self._root).as_posix())

    @property
    def mask_files(self) -> Iterator[PurePosixPath]:
        """The panoptic PNG files; instances have their masks in the annotation file."""
        if self._source.kind != "panoptic":
            return
        folder = PurePosixPath(self._source.pngs.relative_to(self._root).as_posix())
        for image in self._images:
            for annotation in image.annotations:
                if is_text(annotation.get("file_name")):
                    yield folder / annotation["file_name"]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ImageRecord:
        image = self._images[index]
        if self._source.kind == "panoptic":
            areas = panoptic_areas(image, self._known, self._wanted, self._source.pngs)
        else:
            areas = instance_areas(image, self._known, self._wanted)
        queries, rejected = build_queries(areas, self._split)
        return ImageRecord(
            path=self._find(image.path),
            dataset=self.name,
            queries=tuple(queries),
            rejected=tuple(rejected),
        )

    def _find(self, name: PurePosixPath) -> PurePosixPath:
        """Return the path of an image; if it is missing, its expected path."""
        split = PurePosixPath(self._split)
        candidates = [split / name, "images" / split / name, name]
        return next((path for path in candidates if (self._root / path).is_file()), candidates[0])

    def _is_relevant(self, image: CocoImage) -> bool:
        """Return whether an image has an annotation of a wanted category, or a broken one."""
        entries: list[Any] = image.annotations
        if self._source.kind == "panoptic":
            lists: list[Any] = [entry.get("segments_info") for entry in image.annotations]
            if any(not isinstance(segments, list) for segments in lists):
                return True
            entries = [segment for segments in lists for segment in segments]
        return any(
            not isinstance(entry, dict)
            or type(entry.get("category_id")) is not int
            or entry["category_id"] in self._wanted
            or entry["category_id"] not in self._known
            for entry in entries
        )


def _choose_splits(root: Path, config: DataConfig) -> str:
    """Return the configured splits; if there are none, raise an error that lists the splits."""
    if config.split:
        return config.split
    found = ", ".join(splits_of(root)) or "none (expected annotations/instances_SPLIT.json)"
    raise ConfigError(
        f"opening the coco dataset {root}: data.split is not set; splits found: {found}; "
        "several are separated by commas"
    )


def splits_of(root: Path) -> list[str]:
    """Return the splits that a COCO folder has annotations for."""
    files = [*root.glob("annotations/instances_*.json"), *root.glob("annotations/panoptic_*.json")]
    exported = {file.parent.name for file in root.glob(f"*/{_EXPORTED}")}
    return sorted({file.stem.partition("_")[2] for file in files} | exported)


def _choose_source(root: Path, split: str, config: DataConfig) -> _Source:
    """Return the annotation file for the configuration."""
    folder = root / "annotations"
    kinds = ["panoptic", "instances"] if config.annotations == "auto" else [config.annotations]
    for kind in kinds:
        source = _Source(kind, folder / f"{kind}_{split}.json", folder / f"{kind}_{split}")
        if not source.path.is_file():
            continue
        if kind == "panoptic" and not source.pngs.is_dir():
            raise DatasetError(
                f"opening {source.path}: its folder of PNG files {source.pngs} is missing; unpack "
                f"{source.pngs.name}.zip or set data.annotations=instances"
            )
        return source
    if "instances" in kinds and (exported := root / split / _EXPORTED).is_file():
        return _Source("instances", exported, root / split)
    expected = " or ".join(f"{kind}_{split}.json" for kind in kinds)
    raise DatasetError(
        f"opening the coco dataset: expected {expected} in {folder}; splits found: "
        f"{', '.join(splits_of(root)) or 'none'}"
    )


def category_names(entries: list[Any], path: Path) -> dict[int, str]:
    """Return the name of every category, by id, in order of id."""
    names: dict[int, str] = {}
    for entry in entries:
        number = entry.get("id") if isinstance(entry, dict) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        if type(number) is not int or not is_text(name):
            raise DatasetError(f"reading {path}: a category needs id and name, got {brief(entry)}")
        if number in names:
            raise DatasetError(f"reading {path}: two categories have the id {number}")
        names[number] = name
    return dict(sorted(names.items()))


def _wanted_categories(names: Mapping[int, str], wanted: tuple[str, ...]) -> frozenset[int]:
    """Return the ids of category names (as in the file, or cleaned); all ids if none are given."""
    if not wanted:
        return frozenset(names)
    ids: set[int] = set()
    for name in wanted:
        found = {n for n, known in names.items() if name in (known, clean_class_name(known))}
        if not found:
            spellings = sorted({*names.values(), *map(clean_class_name, names.values())})
            close = difflib.get_close_matches(name, spellings) or spellings[:5]
            raise ConfigError(
                f"data.categories: {name!r} is not a category of this dataset; "
                f"did you mean {', '.join(map(repr, close))}?"
            )
        ids |= found
    return frozenset(ids)


def _index(
    document: Mapping[str, list[Any]], path: Path
) -> tuple[list[CocoImage], tuple[Rejected, ...]]:
    """Return the images with their annotations, and the annotations that belong to no image."""
    entries, bad = by_id(document["images"], "image")
    if bad:
        raise DatasetError(f"reading {path}: {bad[0].what}: {bad[0].reason}")
    annotations, rejected = by_image(document["annotations"], entries)
    images = []
    for number, entry in entries.items():
        try:
            name = relative_path(entry.get("file_name"))
        except ValueError as error:
            raise DatasetError(f"reading {path}: file_name of image {number}: {error}") from None
        size = entry.get("width"), entry.get("height")
        images.append(CocoImage(name, *size, annotations.get(number, [])))
    return images, tuple(rejected)
