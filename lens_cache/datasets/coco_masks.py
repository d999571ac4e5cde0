"""Build the instructions and masks of one COCO image from its annotations.

The target of a category is the union of its segments. Crowd regions (a group annotated as one
region) are ignored for their own category: they are neither target nor background. A category that
has only crowd regions gives no instruction. Pixels of a panoptic PNG that belong to no segment are
ignored for every category.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_cache.datasets.base import QueryRecord, Rejected, brief, relative_path
from lens_cache.datasets.mask_parsing import check_not_empty, check_size, mask_from_segmentation
from lens_cache.errors import one_line
from lens_cache.images import masks
from lens_cache.images.decode import MAX_PIXELS
from lens_cache.images.masks import Rle


@dataclass(frozen=True)
class CocoImage:
    """An image entry with its annotations; ``width`` and ``height`` as in the file, not checked."""

    path: PurePosixPath
    width: Any
    height: Any
    annotations: list[dict[str, Any]]

    def size(self) -> tuple[int, int]:
        """Return (height, width) in pixels; raises ValueError if the entry has no valid size."""
        height, width = self.height, self.width
        sound = type(height) is int and type(width) is int and height > 0 and width > 0
        if not sound or height * width > MAX_PIXELS:
            raise ValueError(f"the image's width and height are {brief(width)}, {brief(height)}")
        return height, width


@dataclass
class Areas:
    """The segments of an image.

    Attributes:
        targets: Masks by readable category name.
        crowds: Masks of crowd regions by readable category name.
        void: Pixels that belong to no segment, if any.
        rejected: Annotations that are not usable.
    """

    targets: dict[str, list[Rle]] = field(default_factory=dict)
    crowds: dict[str, list[Rle]] = field(default_factory=dict)
    void: Rle | None = None
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, name: str, rle: Rle, *, crowd: bool) -> None:
        """Add a segment of a category."""
        (self.crowds if crowd else self.targets).setdefault(name, []).append(rle)


def build_queries(areas: Areas, split: str) -> tuple[list[QueryRecord], list[Rejected]]:
    """Return one instruction per category, in alphabetical order, and the rejected entries."""
    queries = []
    rejected = list(areas.rejected)
    for name in sorted(areas.targets | areas.crowds):
        if name not in areas.targets:
            reason = "only crowd regions, nothing to segment on its own"
            rejected.append(Rejected(f"category {name!r}", reason))
            continue
        target = masks.merge(areas.targets[name])
        queries.append(
            QueryRecord(
                instruction=name,
                kind="class",
                length="short",
                split=split,
                target=target,
                ignore=_ignored(areas, name, target),
            )
        )
    return queries, rejected


def instance_areas(image: CocoImage, known: Mapping[int, str], wanted: Collection[int]) -> Areas:
    """Read the annotations of ``instances_*.json``.

    Args:
        image: The image.
        known: Readable names of all categories.
        wanted: Ids of the selected categories.
    """
    areas = Areas()
    for position, annotation in enumerate(image.annotations):
        try:
            category = _category(annotation, known)
            if category not in wanted:
                continue
            if "segmentation" not in annotation:
                raise ValueError("has no segmentation")
            rle = mask_from_segmentation(annotation["segmentation"], *image.size())
            check_not_empty(rle)
            areas.add(known[category], rle, crowd=bool(annotation.get("iscrowd", 0)))
        except ValueError as error:
            number = annotation.get("id")
            place = f"at position {position} of the image"
            what = f"annotation {brief(number) if number is not None else place}"
            areas.rejected.append(Rejected(what, one_line(error)))
    return areas


def panoptic_areas(
    image: CocoImage, known: Mapping[int, str], wanted: Collection[int], folder: Path
) -> Areas:
    """Read the annotation of ``panoptic_*.json`` and its PNG file in ``folder``."""
    areas = Areas()
    for annotation in image.annotations:
        what = f"annotation {brief(annotation.get('file_name'))}"
        try:
            if len(image.annotations) > 1:
                raise ValueError("the image has more than one panoptic annotation")
            segments = annotation.get("segments_info")
            if not isinstance(segments, list):
                raise ValueError("has no segments_info")
            height, width = image.size()
            ids = read_panoptic_png(folder / relative_path(annotation.get("file_name")))
            check_size(Rle(size=list(ids.shape), counts=""), height, width)
            _add_segments(areas, ids, segments, known, wanted)
        except ValueError as error:
            areas.rejected.append(Rejected(what, one_line(error)))
    return areas


def read_panoptic_png(path: Path) -> NDArray[np.int32]:
    """Return the segment id of every pixel, R + 256 G + 65536 B, shape (H, W)."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            colours = np.asarray(image.convert("RGB"), dtype=np.int32)
    except FileNotFoundError:
        raise ValueError("its PNG file is missing") from None
    except MemoryError:
        raise
    except Exception:  # Pillow raises many kinds of errors, some with addresses in their text
        raise ValueError("its PNG file cannot be decoded") from None
    return colours[..., 0] | colours[..., 1] << 8 | colours[..., 2] << 16


def _add_segments(
    areas: Areas,
    ids: NDArray[np.int32],
    segments: list[Any],
    known: Mapping[int, str],
    wanted: Collection[int],
) -> None:
    """Add the segments of a map of segment ids, shape (H, W), merged by category name."""
    values = np.unique(ids)
    present = set(values.tolist()) - {0}
    ranks = np.searchsorted(values, ids)
    groups: dict[tuple[str, bool], list[int]] = {}
    seen: set[int] = set()
    for position, segment in enumerate(segments):
        number = segment.get("id") if isinstance(segment, dict) else None
        what = f"segment {brief(number) if number is not None else f'at position {position}'}"
        try:
            category = _category(segment, known)
            if type(number) is not int or number not in present:
                raise ValueError("does not occur in the PNG file")
            if number in seen:
                raise ValueError("stands in segments_info twice")
            seen.add(number)
            if category in wanted:
                key = known[category], bool(segment.get("iscrowd", 0))
                groups.setdefault(key, []).append(number)
        except ValueError as error:
            areas.rejected.append(Rejected(what, one_line(error)))
    for number in sorted(present - seen):
        reason = "occurs in the PNG file but not, or not properly, in segments_info"
        areas.rejected.append(Rejected(f"pixels of segment {number}", reason))
    for (name, crowd), numbers in groups.items():
        areas.add(name, masks.encode(np.isin(values, numbers)[ranks]), crowd=crowd)
    void = ~np.isin(values, sorted(seen))[ranks]
    areas.void = masks.encode(void) if void.any() else None


def _category(entry: Any, known: Mapping[int, str]) -> int:
    """Return the category id of an annotation or segment."""
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object, got {brief(entry)}")
    if "category_id" not in entry:
        raise ValueError("has no category_id")
    number = entry["category_id"]
    if type(number) is not int or number not in known:
        raise ValueError(f"unknown category id {brief(number)}")
    return number


def _ignored(areas: Areas, name: str, target: Rle) -> Rle | None:
    """Return the ignored pixels of a category; they never overlap its target."""
    if name not in areas.crowds:
        return areas.void  # it belongs to no segment, so it cannot overlap the target
    crowds = areas.crowds[name] + ([areas.void] if areas.void else [])
    rest = masks.decode(masks.merge(crowds)) & ~masks.decode(target)
    return masks.encode(rest) if rest.any() else None
