"""Read the two files of a referring set: the sentences (refs) and the masks (instances).

gRefCOCO's ``grefs(unc).json`` is the same list as JSON, whose "ann_id" is a list: several things
may be meant, and [-1] stands for none.

``refs(*).p`` is a pickled list of {"ref_id", "image_id", "ann_id", "split", "sentences"} and more;
each sentence has its text in "sent". ``instances.json`` is a COCO file. File names in the refs file
contain the annotation's number ("COCO_train2014_000000581857_16.jpg"), so the path of an image is
taken from its entry in ``instances.json``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lens_cache.config.data import Rules
from lens_cache.datasets.base import Rejected, brief, relative_path
from lens_cache.datasets.coco_index import Entry, by_id
from lens_cache.datasets.coco_masks import CocoImage
from lens_cache.datasets.json_files import read_json
from lens_cache.datasets.lisa.plain_pickle import read_plain_pickle
from lens_cache.datasets.lisa.sets import SetName
from lens_cache.datasets.mask_parsing import (
    check_size,
    lenient_polygons,
    mask_from_rle,
    polygons_of,
)
from lens_cache.errors import ConfigError, DatasetError, one_line
from lens_cache.images import masks
from lens_cache.images.masks import Rle

# gRefCOCO's id of the annotation of an expression that means nothing in the image.
NO_TARGET = -1


@dataclass(frozen=True)
class Ref:
    """A referred thing, several of gRefCOCO, or none; contents as in the files, not checked.

    Attributes:
        number: Its ``ref_id``.
        segmentations: The segmentation of each thing, by the id of its annotation.
        sentences: Its sentences.
    """

    number: int
    segmentations: dict[int, Any]
    sentences: list[Any]


@dataclass(frozen=True)
class ReferImage:
    """An image with its usable and rejected refs; ``path`` is relative to LISA's root."""

    path: PurePosixPath
    height: int
    width: int
    refs: list[Ref] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def index_refs(
    refs: list[tuple[int, dict[str, Any]]], instances: dict[str, list[Any]], folder: PurePosixPath
) -> tuple[list[ReferImage], tuple[Rejected, ...]]:
    """Return the images with their refs, in the order of the refs file, and refs of no image.

    Args:
        refs: Result of ``read_refs``.
        instances: The lists of ``instances.json``.
        folder: Folder of the images, relative to LISA's root.
    """
    # Of entries with equal ids LISA uses the last one.
    entries, _ = by_id(reversed(instances["images"]), "image")
    annotations, _ = by_id(reversed(instances["annotations"]), "annotation")
    images: dict[int, ReferImage] = {}
    rejected: list[Rejected] = []
    for position, ref in refs:
        what = f"ref {ref.get('ref_id', f'at position {position}')}"
        number = ref.get("image_id")
        try:
            if type(number) is not int:
                raise ValueError(f"expected a number as image_id, got {brief(number)}")
            if number not in images:
                images[number] = _image(entries, number, folder)
        except ValueError as error:
            rejected.append(Rejected(what, one_line(error)))
            continue
        try:
            images[number].refs.append(_ref(ref, annotations))
        except ValueError as error:
            images[number].rejected.append(Rejected(what, one_line(error)))
    return list(images.values()), tuple(rejected)


def in_split(found: str, wanted: str) -> bool:
    """Return whether a ref of split ``found`` belongs to ``wanted``, as in LISA's refer module.

    RefCLEF has refs of testAB and testBC, which belong to both; ``test`` contains all test splits.
    """
    if wanted in ("testA", "testB", "testC"):
        return wanted[-1] in found
    return "test" in found if wanted == "test" else found == wanted


def read_refs(path: Path, name: SetName) -> list[tuple[int, dict[str, Any]]]:
    """Return the refs of a split with their positions in the file.

    Raises:
        ConfigError: If there are none.
        DatasetError: If the file cannot be read, or is not a list of refs.
    """
    refs = read_json(path) if path.suffix == ".json" else read_plain_pickle(path)
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise DatasetError(
            f"reading {path}: expected a list of dicts, one per ref, got {brief(refs)}; download "
            "it again"
        )
    splits = Counter(str(ref.get("split")) for ref in refs)
    found = [(n, ref) for n, ref in enumerate(refs) if in_split(str(ref.get("split")), name.split)]
    if not found:
        raise ConfigError(
            f"data.lisa.sets: {name}: {path} has no ref of split {name.split}; it has "
            f"{', '.join(sorted(splits)) or 'none at all'}"
        )
    return found


def _image(entries: dict[int, Entry], number: int, folder: PurePosixPath) -> ReferImage:
    """Return the image with an id; raises ValueError if it is missing or not valid."""
    if number not in entries:
        raise ValueError(f"instances.json has no image {brief(number)}")
    entry = entries[number]
    try:
        path = folder / relative_path(entry.get("file_name"))
    except ValueError as error:
        raise ValueError(f"file_name of image {number} in instances.json: {error}") from None
    try:
        height, width = CocoImage(path, entry.get("width"), entry.get("height"), []).size()
    except ValueError as error:
        raise ValueError(f"image {number} in instances.json: {error}") from None
    return ReferImage(path, height, width)


def _ref(ref: dict[str, Any], annotations: dict[int, Entry]) -> Ref:
    """Return a ref with its annotation; raises ValueError if either is not valid."""
    number = ref.get("ref_id")
    ids = ref.get("ann_id")
    sentences = ref.get("sentences")
    if type(number) is not int or not isinstance(sentences, list):
        raise ValueError(f"expected ref_id and a list of sentences, got {brief(ref)}")
    found = {}
    for annotation in ids if isinstance(ids, list) else [ids]:
        if annotation == NO_TARGET and ids == [NO_TARGET]:
            continue
        if type(annotation) is not int or annotation not in annotations:
            raise ValueError(f"instances.json has no annotation {brief(annotation)}")
        if "segmentation" not in annotations[annotation]:
            raise ValueError(f"annotation {annotation} of instances.json has no segmentation")
        found[annotation] = annotations[annotation]["segmentation"]
    return Ref(number, found, sentences)


def referred_mask(
    segmentation: Any, height: int, width: int, rules: Rules, *, training: bool
) -> Rle:
    """Return the target mask; it is empty if the segmentation is an empty list.

    LISA adds the parts up. Its metrics compare with 1, so that pixels covered by more than one part
    are background; so they are under ``parity`` in a split that is evaluated. Its losses take a 2
    for more foreground than a 1, so in training these pixels are foreground.

    Args:
        segmentation: List of polygons or of RLEs, or one RLE.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        rules: ``strict`` or ``parity``.
        training: Whether the mask is trained on.

    Raises:
        ValueError: If the segmentation is malformed or of another size.
    """
    parts = _parts(segmentation, height, width, rules)
    if not parts:
        return masks.empty(height, width)
    union = masks.merge(parts)
    if training or rules == "strict" or masks.area(union) == sum(map(masks.area, parts)):
        return union  # no parts overlap
    total = np.zeros((height, width), np.uint8)
    for part in parts:
        total += masks.decode(part)  # 256 overlapping parts wrap to 0, as in LISA
    return masks.encode(total == 1)


def _parts(segmentation: Any, height: int, width: int, rules: Rules) -> list[Rle]:
    """Return one mask per polygon or RLE."""
    if isinstance(segmentation, dict):  # an RLE outside a list
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
    return masks.polygon_parts(lenient_polygons(segmentation, height, width), height, width)
