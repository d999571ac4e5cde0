"""A mask drawn on its image: tinted for people, or left bright for a multimodal LLM."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]
BLUE: Colour = (30, 144, 255)
_WHITE: Colour = (255, 255, 255)
_INK: Colour = (20, 20, 20)
# Longest side in pixels of an image on which a broad outline would hide the thing.
_SMALL = 256
# Brightness of what a spotlight leaves out.
_DIMMED = 0.3


def tint(
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    colour: Colour = BLUE,
    *,
    opacity: float = 0.55,
) -> NDArray[np.uint8]:
    """Tint the pixels of a mask, darken the others a little, and draw its outline.

    The outline is white, with a dark line inside unless the image is small, so that it shows on
    every colour.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        mask: Bool, shape (H, W).
        colour: RGB.
        opacity: Share of the colour, from 0 to 1.

    Returns:
        RGB, uint8, shape (H, W, 3).
    """
    inside = mask[..., None]
    pixels = image.astype(np.float32)
    tinted = (1 - opacity) * pixels + opacity * np.asarray(colour, dtype=np.float32)
    drawn = np.where(inside, tinted, pixels * 0.8).astype(np.uint8)
    contours = _contours(mask)
    small = max(mask.shape) < _SMALL
    cv2.drawContours(drawn, contours, -1, _WHITE, thickness=1 if small else 3)
    if not small:
        cv2.drawContours(drawn, contours, -1, _INK, thickness=1)
    return drawn


def spotlight(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Darken everything outside a mask and draw its outline; colours inside do not change.

    This is ``Overlay`` of Algorithm S1: a question about the marked thing can still be answered by
    its looks.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        mask: Bool, shape (H, W).

    Returns:
        RGB, uint8, shape (H, W, 3).
    """
    drawn = np.where(mask[..., None], image, (image * _DIMMED).astype(np.uint8))
    thickness = max(1, round(max(mask.shape) / 250))
    cv2.drawContours(drawn, _contours(mask), -1, _WHITE, thickness=thickness)
    return drawn


def side_by_side(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put two images of the same height side by side; shapes (H, W, 3) and (H, V, 3)."""
    return np.concatenate([left, right], axis=1)


def _contours(mask: NDArray[np.bool_]) -> Any:
    return cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)[0]
