"""The two files of a referring set: who is referred to with what words, and where it is.

``refs(*).p`` is a pickled list of {"ref_id", "image_id", "ann_id", "split", "sentences"} and more,
each sentence with its text in "sent"; ``instances.json`` is COCO's. A file name in the refs file
carries the annotation's number ("COCO_train2014_000000581857_16.jpg"), so the image's own entry in
``instances.json`` says where it lies.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lens_cache.config.data import Rules
from lens_cache.datasets.base import Rejected, brief, relative_path
from lens_cache.datasets.coco_masks import CocoImage
from lens_cache.datasets.lisa.plain_pickle import read_plain_pickle
from lens_cache.datasets.lisa.sets import SetName
from lens_cache.datasets.mask_parsing import check_numbers, check_size, mask_from_rle, polygons_of
from lens_cache.errors import ConfigError, DatasetError, one_line
from lens_cache.images import masks
from lens_cache.images.masks import Rle


@dataclass(frozen=True)
class Ref:
    """A thing that is referred to; ``segmentation`` and ``sentences`` as the files have them."""

    number: int
    annotation: int
    segmentation: Any
    sentences: list[Any]


@dataclass(frozen=True)
class Picture:
    """An image with its refs, and those that are no use; ``path`` is relative to the root."""

    path: PurePosixPath
    height: int
    width: int
    refs: list[Ref] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def index_refs(
    refs: list[tuple[int, dict[str, Any]]], instances: dict[str, list[Any]], folder: PurePosixPath
) -> tuple[list[Picture], tuple[Rejected, ...]]:
    """Give every image its refs, in the order of the refs file.

    Args:
        refs: What ``read_refs`` found.
        instances: The lists of ``instances.json``.
        folder: Where the images are.

    Returns:
        The images, and the refs that belong to none.
    """
    images, annotations = _by_id(instances["images"]), _by_id(instances["annotations"])
    pictures: dict[int, Picture] = {}
    rejected: list[Rejected] = []
    for position, ref in refs:
        what = f"ref {ref.get('ref_id', f'at position {position}')}"
        number = ref.get("image_id")
        try:
            if type(number) is not int:
                raise ValueError(f"expected a number as image_id, got {brief(number)}")
            if number not in pictures:
                pictures[number] = _picture(images, number, folder)
        except ValueError as error:
            rejected.append(Rejected(what, one_line(error)))
            continue
        try:
            pictures[number].refs.append(_ref(ref, annotations))
        except ValueError as error:
            pictures[number].rejected.append(Rejected(what, one_line(error)))
    return list(pictures.values()), tuple(rejected)


def in_split(found: str, asked: str) -> bool:
    """Tell whether a ref of split ``found`` is in the one asked for, as the refer interface does.

    RefCLEF has refs of testAB and testBC, which are in both; ``test`` is all that are for testing.
    """
    if asked in ("testA", "testB", "testC"):
        return asked[-1] in found
    return "test" in found if asked == "test" else found == asked


def read_refs(path: Path, name: SetName) -> list[tuple[int, dict[str, Any]]]:
    """Return the refs of a split with their positions in the file.

    Raises:
        ConfigError: If there are none.
        DatasetError: If the file cannot be read, or is not a list of refs.
    """
    refs = read_plain_pickle(path)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise DatasetError(
            f"reading {path}: expected a list of dicts, one a ref, got {brief(refs)}; get it anew"
        )
    splits = Counter(str(ref.get("split")) for ref in refs)
    found = [(n, ref) for n, ref in enumerate(refs) if in_split(str(ref.get("split")), name.split)]
    if not found:
        raise ConfigError(
            f"data.lisa.sets: {name}: {path} has no ref of split {name.split}; it has "
            f"{', '.join(sorted(splits)) or 'none at all'}"
        )
    return found


def _by_id(entries: list[Any]) -> dict[int, dict[str, Any]]:
    """Return the entries that have a number, by it; the last of equal ones counts, as in LISA."""
    return {
        entry["id"]: entry
        for entry in entries
        if isinstance(entry, dict) and type(entry.get("id")) is int
    }


def _picture(images: dict[int, dict[str, Any]], number: int, folder: PurePosixPath) -> Picture:
    """Look an image up."""
    if number not in images:
        raise ValueError(f"instances.json has no image {brief(number)}")
    entry = images[number]
    try:
        path = folder / relative_path(entry.get("file_name"))
    except ValueError as error:
        raise ValueError(f"file_name of image {number} in instances.json: {error}") from None
    try:
        height, width = CocoImage(path, entry.get("width"), entry.get("height"), []).size()
    except ValueError as error:
        raise ValueError(f"image {number} in instances.json: {error}") from None
    return Picture(path, height, width)


def _ref(ref: dict[str, Any], annotations: dict[int, dict[str, Any]]) -> Ref:
    """Look the annotation of a ref up."""
    number, annotation, sentences = (ref.get(key) for key in ("ref_id", "ann_id", "sentences"))
    if type(number) is not int or not isinstance(sentences, list):
        raise ValueError(f"expected ref_id and a list of sentences, got {brief(ref)}")
    if type(annotation) is not int or annotation not in annotations:
        raise ValueError(f"instances.json has no annotation {brief(annotation)}")
    if "segmentation" not in annotations[annotation]:
        raise ValueError(f"annotation {annotation} of instances.json has no segmentation")
    return Ref(number, annotation, annotations[annotation]["segmentation"], sentences)


def referred_mask(segmentation: Any, height: int, width: int, rules: Rules) -> Rle:
    """Return the target in an image of the given size; without foreground if nothing was drawn.

    Raises:
        ValueError: If the segmentation is malformed or of another size.
    """
    parts = _parts(segmentation, height, width, rules)
    if not parts:
        return masks.empty(height, width)
    union = masks.merge(parts)
    if rules == "strict" or masks.area(union) == sum(map(masks.area, parts)):
        return union  # nothing lies over anything else
    total = np.zeros((height, width), np.uint8)
    for part in parts:
        total += masks.decode(part)  # 256 parts over each other are 0 again, as in LISA
    return masks.encode(total == 1)


def _parts(segmentation: Any, height: int, width: int, rules: Rules) -> list[Rle]:
    """Return one mask a polygon or encoding."""
    if isinstance(segmentation, dict):  # an encoding that is not in a list
        segmentation = [segmentation]
    if not isinstance(segmentation, list):
        raise ValueError(f"expected a list of polygons or of RLEs, got {brief(segmentation)}")
    if segmentation and isinstance(segmentation[0], dict):
        parts = [mask_from_rle(entry) for entry in segmentation]
        for part in parts:
            check_size(part, height, width)
        return parts
    if rules == "strict":
        return masks.polygon_parts(polygons_of(segmentation, height, width), height, width)
    check_numbers(segmentation, height, width)
    if any(len(polygon) < 4 for polygon in segmentation):
        raise ValueError("a polygon needs at least 2 points")  # pycocotools draws these still
    return masks.polygon_parts(segmentation, height, width)
