"""Masks as datasets state them, checked before anything is rasterised.

Everything here raises ValueError with a short reason, which becomes a ``Rejected``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lens_cache.datasets.base import brief
from lens_cache.errors import LensCacheError
from lens_cache.images import masks
from lens_cache.images.decode import MAX_PIXELS, image_size
from lens_cache.images.masks import Rle

# Rasterising costs time and memory in the length of the outline, so it may not be absurd.
_FARTHEST = 10.0


def mask_from_segmentation(value: Any, height: int, width: int) -> Rle:
    """Read COCO's ``segmentation``: a list of polygons, or an RLE of the image's size."""
    if isinstance(value, dict):
        rle = mask_from_rle(value)
        check_size(rle, height, width)
        return rle
    return mask_from_polygons(value, height, width)


def mask_from_polygons(value: Any, height: int, width: int) -> Rle:
    """Rasterise flat [x0, y0, x1, y1, ...] lists in pixels of the image; their union."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected a list of polygons, got {brief(value)}")
    return masks.from_polygons(polygons_of(value, height, width), height, width)


def polygons_of(value: list[Any], height: int, width: int) -> list[list[float]]:
    """Check that a list holds polygons of at least three points, and return it."""
    check_numbers(value, height, width)
    for polygon in value:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon needs at least 3 points, got {len(polygon)} values")
    return value


def check_numbers(value: list[Any], height: int, width: int) -> None:
    """Check that a list holds lists of numbers, none of them far outside the image."""
    limit = _FARTHEST * max(height, width)
    for polygon in value:
        if not isinstance(polygon, list):
            raise ValueError(f"expected a polygon [x0, y0, x1, y1, ...], got {brief(polygon)}")
        for number in polygon:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"a polygon holds numbers, got {brief(number)}")
            if not abs(number) <= limit:  # nor is it a NaN
                raise ValueError(f"a polygon lies far outside the image: {brief(number)}")


def mask_from_rle(value: Any) -> Rle:
    """Read {"size": [height, width], "counts": text or list}."""
    if not isinstance(value, dict) or set(value) != {"size", "counts"}:
        raise ValueError(f'expected {{"size": [h, w], "counts": ...}}, got {brief(value)}')
    size, counts = value["size"], value["counts"]
    if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int for n in size):
        raise ValueError(f"the size of an RLE is [height, width], got {brief(size)}")
    height, width = size
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"an RLE of {height} x {width} pixels (height x width) is not usable")
    if not isinstance(counts, str | list):
        raise ValueError(f"the counts of an RLE are a text or a list, got {brief(counts)}")
    return masks.from_counts(counts, height, width)


def mask_from_file(source: Path | bytes) -> Rle:
    """Read a mask from an image file, given by its path or content."""
    try:
        image_size(source)  # refuses what is not an image, or is too large
        return masks.encode(masks.read_png(source))
    except LensCacheError as error:
        raise ValueError(str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise whatever they like on broken data
        reason = error.strerror if isinstance(error, OSError) else None
        raise ValueError(reason or "cannot be decoded") from None


def check_size(rle: Rle, height: int, width: int) -> None:
    """Refuse a mask whose size is not the image's."""
    if rle["size"] != [height, width]:
        found = f"{rle['size'][1]} x {rle['size'][0]}"
        raise ValueError(f"the mask is {found} pixels, the image {width} x {height}")


def check_not_empty(rle: Rle) -> None:
    """Refuse a mask with no foreground."""
    if not masks.area(rle):
        raise ValueError("the mask has no foreground")
