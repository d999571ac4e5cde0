"""The images of a COCO file, each with its annotations, as COCO's own API would list them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from lens_cache.datasets.base import Rejected, brief, relative_path


@dataclass(frozen=True, slots=True)  # there are half a million
class PartAnnotation:
    """What is used of an annotation; ``object_number`` is that of the object it belongs to."""

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
        incomplete: Categories of which not all is annotated.
        annotations: In the order of ``getAnnIds``.
    """

    path: PurePosixPath
    incomplete: frozenset[int]
    annotations: list[PartAnnotation] = field(default_factory=list)


def index_images(
    document: Mapping[str, list[Any]], folder: PurePosixPath
) -> tuple[list[PartImage], tuple[Rejected, ...]]:
    """Give every image its annotations; return also what belongs to none, or is none.

    Args:
        document: The annotation file.
        folder: Where its images lie, relative to LISA's root.
    """
    images: dict[int, PartImage] = {}
    rejected: list[Rejected] = []
    for place, entry in enumerate(document["images"]):
        try:
            number = _number(entry, "id")
            if number in images:
                raise ValueError("another image has its id")
            path = folder / relative_path(entry.get("file_name"))
            images[number] = PartImage(path, _numbers(entry.get("not_exhaustive_category_ids", [])))
        except ValueError as error:
            rejected.append(Rejected(f"image {_label(entry, place)}", str(error)))
    seen: set[int] = set()
    for place, entry in enumerate(document["annotations"]):
        try:
            number, image = _number(entry, "id"), _number(entry, "image_id")
            if number in seen:
                raise ValueError("another annotation has its id")
            if image not in images:
                raise ValueError(f"no image has its image_id {image}")
            seen.add(number)
            images[image].annotations.append(
                PartAnnotation(
                    number=number,
                    category=entry.get("category_id"),
                    segmentation=entry.get("segmentation"),
                    crowd=bool(entry.get("iscrowd", 0)),
                    object_number=entry.get("obj_ann_id"),
                )
            )
        except ValueError as error:
            rejected.append(Rejected(f"annotation {_label(entry, place)}", str(error)))
    return list(images.values()), tuple(rejected)


def _number(entry: Any, key: str) -> int:
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object, got {brief(entry)}")
    value = entry.get(key)
    if type(value) is not int:
        raise ValueError(f"its {key} must be an integer, got {brief(value)}")
    return value


def _numbers(value: Any) -> frozenset[int]:
    if not isinstance(value, list) or any(type(number) is not int for number in value):
        raise ValueError(f"not_exhaustive_category_ids must be a list of ids, got {brief(value)}")
    return frozenset(value)


def _label(entry: Any, place: int) -> str:
    """Name an entry by its id, or by its position in the file."""
    number = entry.get("id") if isinstance(entry, dict) else None
    return str(number) if type(number) is int else f"at position {place}"
