"""Read the masks of a dataset: polygons, RLE and image files, checked before they are rasterised.

All functions raise ValueError with a short reason, which becomes a ``Rejected``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lens_cache.datasets.base import brief
from lens_cache.errors import LensCacheError
from lens_cache.images import masks
from lens_cache.images.decode import MAX_PIXELS, image_size
from lens_cache.images.masks import Rle

# The cost of rasterising grows with the length of the outline, so coordinates are limited to this
# many times the longer side of the image.
FARTHEST = 10.0


def mask_from_segmentation(value: Any, height: int, width: int, *, lenient: bool = False) -> Rle:
    """Read COCO's ``segmentation``: a list of polygons, or an RLE of the image's size.

    Args:
        value: The segmentation.
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        lenient: Accept polygons as ``lenient_polygons`` does.
    """
    if isinstance(value, dict):
        rle = mask_from_rle(value)
        check_size(rle, height, width)
        return rle
    if lenient and isinstance(value, list) and value:
        parts = masks.polygon_parts(lenient_polygons(value, height, width), height, width)
        return masks.merge(parts)
    return mask_from_polygons(value, height, width)


def mask_from_polygons(value: Any, height: int, width: int) -> Rle:
    """Return the union of polygons [x0, y0, x1, y1, ...], in pixels of the image."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected a list of polygons, got {brief(value)}")
    return masks.from_polygons(polygons_of(value, height, width), height, width)


def polygons_of(value: list[Any], height: int, width: int) -> list[list[float]]:
    """Return the list, after checking that every polygon has at least three points."""
    check_numbers(value, height, width)
    for polygon in value:
        if len(polygon) < 6 or len(polygon) % 2:
            raise ValueError(f"a polygon needs at least 3 points, got {len(polygon)} values")
    return value


def lenient_polygons(value: list[Any], height: int, width: int) -> list[list[float]]:
    """Return polygons as pycocotools accepts them: two points are a line, a last odd value is cut.

    LISA's loaders give polygons to pycocotools unchecked.
    """
    check_numbers(value, height, width)
    if any(len(polygon) < 4 for polygon in value):
        raise ValueError("a polygon needs at least 2 points")
    return [polygon[: len(polygon) // 2 * 2] for polygon in value]


def check_numbers(value: list[Any], height: int, width: int) -> None:
    """Check that a list contains lists of numbers, none of them far outside the image."""
    limit = FARTHEST * max(height, width)
    for polygon in value:
        if not isinstance(polygon, list):
            raise ValueError(f"expected a polygon [x0, y0, x1, y1, ...], got {brief(polygon)}")
        for number in polygon:
            if isinstance(number, bool) or not isinstance(number, int | float):
                raise ValueError(f"a polygon holds numbers, got {brief(number)}")
            if not abs(number) <= limit:  # also true for NaN
                raise ValueError(f"a polygon lies far outside the image: {brief(number)}")


def mask_from_rle(value: Any) -> Rle:
    """Read {"size": [height, width], "counts": text or list}."""
    if not isinstance(value, dict) or set(value) != {"size", "counts"}:
        raise ValueError(f'expected {{"size": [h, w], "counts": ...}}, got {brief(value)}')
    size = value["size"]
    counts = value["counts"]
    if not isinstance(size, list) or len(size) != 2 or any(type(n) is not int for n in size):
        raise ValueError(f"the size of an RLE is [height, width], got {brief(size)}")
    height, width = size
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"an RLE of {height} x {width} pixels (height x width) is not usable")
    if not isinstance(counts, str | list):
        raise ValueError(f"the counts of an RLE are a text or a list, got {brief(counts)}")
    return masks.from_counts(counts, height, width)


def mask_from_file(source: Path | bytes) -> Rle:
    """Read a mask from an image file, given by its path or content; non-zero is foreground."""
    try:
        image_size(source)  # raises if it is not an image, or too large
        return masks.encode(masks.read_png(source))
    except LensCacheError as error:
        raise ValueError(str(error)) from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many kinds of errors on broken data
        reason = error.strerror if isinstance(error, OSError) else None
        raise ValueError(reason or "cannot be decoded") from None


def check_size(rle: Rle, height: int, width: int) -> None:
    """Raise ValueError if the mask does not have the size of the image."""
    if rle["size"] != [height, width]:
        found = f"{rle['size'][1]} x {rle['size'][0]}"
        raise ValueError(f"the mask is {found} pixels, the image {width} x {height}")


def check_not_empty(rle: Rle) -> None:
    """Raise ValueError if the mask has no foreground."""
    if not masks.area(rle):
        raise ValueError("the mask has no foreground")
