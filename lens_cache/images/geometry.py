"""The frames an image lives in, and every conversion between them.

Three frames:

* *image*: the picture as a person sees it (EXIF applied), width x height pixels.
* *square*: the picture resized so that its longest side is ``side`` (1024 for SAM) and padded with
  zeros to the right and below. SAM and the multimodal LLM both see this square.
* *grid*: the square cut into G x G cells; the image tokens of the LLM in row-major order.

Normalised coordinates are (x, y) in the square, 0 at its left/top edge and 1 at its right/bottom
edge. A pixel's or cell's position is its centre: cell ``i`` of ``G`` is at ``(i + 0.5) / G``, which
is also how SAM encodes points. The released LENS code places cell ``i`` at ``i / (G - 1)`` instead
(corners aligned); ``grid_to_normalised`` knows both.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lens_cache.images import masks
from lens_cache.images.masks import Rle

Convention = Literal["centre", "corner"]


def resized_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Return the (width, height) of an image inside the square of the given side.

    The longest side becomes ``side``; the other is rounded half up, as SAM does, but is never less
    than one pixel.
    """
    scale = side / max(width, height)
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def image_to_square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize an RGB image of shape (H, W, 3) into the square, shape (side, side, 3), uint8.

    Bilinear with antialiasing (Pillow), as SAM's ``ResizeLongestSide``; padding is black.
    """
    height, width = image.shape[:2]
    new_width, new_height = resized_size(width, height, side)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
    square = np.zeros((side, side, 3), dtype=np.uint8)
    square[:new_height, :new_width] = np.asarray(resized)
    return square


def mask_to_square(mask: Rle, size: int) -> NDArray[np.bool_]:
    """Bring a mask into the square at resolution ``size``, nearest neighbour, (size, size).

    Padding is background. Only the pixels that are wanted are decoded.
    """
    height, width = mask["size"]
    new_width, new_height = resized_size(width, height, size)
    square = np.zeros((size, size), dtype=np.bool_)
    square[:new_height, :new_width] = masks.sample(
        mask, _nearest(height, new_height), _nearest(width, new_width)
    )
    return square


def _nearest(length: int, new_length: int) -> NDArray[np.int64]:
    """Return which of ``length`` pixels lies under the centre of each of ``new_length``."""
    return (2 * np.arange(new_length) + 1) * length // (2 * new_length)


def inside_image(width: int, height: int, size: int) -> NDArray[np.bool_]:
    """Return which pixels of the square at resolution ``size`` show the image, not padding."""
    new_width, new_height = resized_size(width, height, size)
    inside = np.zeros((size, size), dtype=np.bool_)
    inside[:new_height, :new_width] = True
    return inside


def logits_to_image(logits: Tensor, *, width: int, height: int, side: int) -> Tensor:
    """Bring mask logits of the square to the pixels of the image, as SAM's post-processing.

    Args:
        logits: Mask logits over the whole square, shape (n, n).
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        side: Side of the square in pixels.

    Returns:
        Logits of shape (height, width), float32: bilinear to (side, side), padding cut off,
        bilinear to the image.
    """
    new_width, new_height = resized_size(width, height, side)
    square = F.interpolate(
        logits[None, None].float(), (side, side), mode="bilinear", align_corners=False
    )
    content = square[..., :new_height, :new_width]
    return F.interpolate(content, (height, width), mode="bilinear", align_corners=False)[0, 0]


def grid_to_normalised(cells: Tensor, grid: tuple[int, int], convention: Convention) -> Tensor:
    """Turn (x, y) cell indices, shape (..., 2), into normalised coordinates of the square.

    Args:
        cells: Positions in cells, possibly between cells; (x, y) on the last axis.
        grid: (rows, columns) of the grid.
        convention: ``centre`` puts cell i at (i + 0.5) / G, ``corner`` at i / (G - 1).
    """
    rows, columns = grid
    extent = torch.tensor([columns, rows], dtype=cells.dtype, device=cells.device)
    if convention == "corner":
        return cells / (extent - 1).clamp(min=1)
    return (cells + 0.5) / extent


def normalised_to_image(
    points: NDArray[np.float64], *, width: int, height: int
) -> NDArray[np.float64]:
    """Turn normalised (x, y) of the square, shape (..., 2), into (x, y) pixels of the image.

    Points in the padding land outside the image.
    """
    return points * float(max(width, height))
