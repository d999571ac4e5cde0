"""ReasonSeg's outlines as a map of labels, pixel for pixel as LISA draws them.

The benchmark is defined by what OpenCV draws, up to version 4.10: its later versions fill polygons
without the pixels that the earlier ones drew beyond the outline.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lens_cache.datasets.base import brief

TARGET, IGNORED = 1, 255
# Drawing costs time in the length of an outline, so a point may not lie absurdly far away.
_FARTHEST = 10.0


def label_map(shapes: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Draw the shapes of one image, the largest first, each over those before it.

    A shape is the larger the more pixels it has inside the image. Of equal ones the last in the
    file comes first.

    Args:
        shapes: List of {"label": text, "points": [[x, y], ...]}.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        Shape (height, width): 0, ``TARGET`` or ``IGNORED``.

    Raises:
        ValueError: If they are malformed.
    """
    if not isinstance(shapes, list):
        raise ValueError(f"expected shapes to be a list, got {brief(shapes)}")
    labelled = [_read_shape(shape, height, width) for shape in shapes]
    drawn = [(value, points) for value, points in labelled if value]
    areas = [
        np.count_nonzero(_draw(np.zeros((height, width), np.uint8), points, 1))
        for _, points in drawn
    ]
    labels = np.zeros((height, width), np.uint8)
    for place in np.argsort(areas, kind="stable")[::-1]:
        value, points = drawn[place]
        _draw(labels, points, value)
    return labels


def _draw(canvas: NDArray[np.uint8], points: NDArray[np.int32], value: int) -> NDArray[np.uint8]:
    """Draw the outline and what is in it; ``points`` has shape (N, 2), x before y."""
    cv2.polylines(canvas, [points], True, (value,), 1)
    cv2.fillPoly(canvas, [points], (value,))
    return canvas


def _read_shape(shape: Any, height: int, width: int) -> tuple[int, NDArray[np.int32]]:
    """Return what a shape stands for, 0 for nothing, and its points, shape (N, 2)."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str):
        raise ValueError(f"expected a shape with a label, got {brief(shape)}")
    if label.lower() == "flag":  # a remnant of how the set was made
        return 0, np.empty((0, 2), np.int32)
    points = shape.get("points")
    if not isinstance(points, list) or not points or not all(map(_is_point, points)):
        raise ValueError(f"expected points [[x, y], ...] of a shape, got {brief(points)}")
    limit = _FARTHEST * max(height, width)
    if not all(abs(number) <= limit for point in points for number in point):
        raise ValueError(f"a shape lies far outside the image: {brief(points)}")
    value = IGNORED if "ignore" in label.lower() else TARGET
    return value, np.array(points, dtype=np.int32)


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(n, int | float) and not isinstance(n, bool) for n in point)
    )
