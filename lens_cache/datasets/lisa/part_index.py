"""Images and annotations of a COCO file with objects and parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from lens_cache.datasets.base import Rejected, brief, relative_path
from lens_cache.datasets.coco_index import Entry, by_id, by_image


@dataclass(frozen=True, slots=True)  # PACO has half a million
class PartAnnotation:
    """The used fields of an annotation.

    Attributes:
        number: Its id.
        category: Its category id, not checked.
        segmentation: Its polygons or RLE, not checked.
        crowd: Whether it is a crowd region.
        object_number: For a part: id of the annotation of its object.
    """

    number: int
    category: Any
    segmentation: Any
    crowd: bool
    object_number: Any


@dataclass(frozen=True)
class PartImage:
    """An image entry with its annotations in the order of the file.

    Attributes:
        path: Relative to LISA's root.
        incomplete: Categories that are not annotated exhaustively.
        annotations: In the order of the file, which is that of pycocotools' ``getAnnIds``.
    """

    path: PurePosixPath
    incomplete: frozenset[int]
    annotations: list[PartAnnotation] = field(default_factory=list)


def index_images(
    document: Mapping[str, list[Any]], folder: PurePosixPath
) -> tuple[list[PartImage], tuple[Rejected, ...]]:
    """Return the images with their annotations, and the entries that are not usable.

    Args:
        document: The annotation file.
        folder: Folder of its images, relative to LISA's root.
    """
    entries, bad_images = by_id(document["images"], "image")
    images: dict[int, PartImage] = {}
    for number, entry in entries.items():
        try:
            path = folder / relative_path(entry.get("file_name"))
            incomplete = _numbers(entry.get("not_exhaustive_category_ids", []))
        except ValueError as error:
            bad_images.append(Rejected(f"image {number}", str(error)))
            continue
        images[number] = PartImage(path, incomplete)
    annotations, bad_annotations = by_id(document["annotations"], "annotation")
    grouped, orphans = by_image(annotations.values(), images)
    for number, found in grouped.items():
        images[number].annotations.extend(map(_annotation, found))
    return list(images.values()), (*bad_images, *bad_annotations, *orphans)


def _annotation(entry: Entry) -> PartAnnotation:
    return PartAnnotation(
        number=entry["id"],
        category=entry.get("category_id"),
        segmentation=entry.get("segmentation"),
        crowd=bool(entry.get("iscrowd", 0)),
        object_number=entry.get("obj_ann_id"),
    )


def _numbers(value: Any) -> frozenset[int]:
    if not isinstance(value, list) or any(type(number) is not int for number in value):
        raise ValueError(f"not_exhaustive_category_ids must be a list of ids, got {brief(value)}")
    return frozenset(value)
