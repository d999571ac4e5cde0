"""The mask of a referred thing, from its annotation in ``instances.json``.

A segmentation is a list of polygons, or (RefCLEF) a list of run-length encodings, one or several;
an empty list means that nothing was drawn. ``strict`` takes the union of the parts. ``parity`` does
as LISA, which adds the parts up and counts what is 1: a pixel in two parts is not part of the
target.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lens_cache import masks
from lens_cache.data_config import Rules
from lens_cache.datasets.base import brief
from lens_cache.datasets.targets import check_numbers, check_size, mask_from_rle, polygons_of
from lens_cache.masks import Rle


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
