"""The three frames of an image, and every conversion between them.

* *image*: the decoded image (EXIF orientation applied), width x height pixels.
* *square*: the image resized so that its longest side is ``side`` (1024 for SAM) and padded with
  zeros on the right and at the bottom. SAM and the multimodal LLM both get this square.
* *grid*: the square divided into rows x columns cells, one image token each, in row-major order.

Points are (x, y). Normalised coordinates are those of the square: 0 at its left and top edge, 1 at
its right and bottom edge.

Convention for pixels and cells: the position of a pixel or cell is its centre (``centre``). Cell
``i`` of ``G`` is at ``(i + 0.5) / G``, as in SAM's position encoding and with PyTorch's
``align_corners=False``. The released LENS code places cell ``i`` at ``i / (G - 1)`` instead, with
the centres of the outer cells on the edges (``corner``, PyTorch's ``align_corners=True``).
``grid_to_normalised`` and ``resize_map`` offer both; a ``LensOutput`` states which one its
grounding map and keypoints use, so that keypoints, attention loss and panels agree.
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
    """Return the (width, height) in pixels of an image inside the square of the given side.

    The longest side becomes ``side``. The other is rounded half up, as in SAM, to at least one
    pixel.
    """
    scale = side / max(width, height)
    return max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))


def image_to_square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize an RGB image into the square.

    Bilinear with antialiasing (Pillow), as SAM's ``ResizeLongestSide``; padding is black.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        side: Side of the square in pixels.

    Returns:
        RGB, uint8, shape (side, side, 3).
    """
    height, width = image.shape[:2]
    new_width, new_height = resized_size(width, height, side)
    resized = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
    square = np.zeros((side, side, 3), dtype=np.uint8)
    square[:new_height, :new_width] = np.asarray(resized)
    return square


def mask_to_square(mask: Rle, size: int) -> NDArray[np.bool_]:
    """Resize a mask of the image into a square of side ``size``, by nearest neighbour.

    Padding is background. Decodes only the sampled pixels.

    Returns:
        Bool, shape (size, size).
    """
    height, width = mask["size"]
    new_width, new_height = resized_size(width, height, size)
    square = np.zeros((size, size), dtype=np.bool_)
    square[:new_height, :new_width] = masks.sample(
        mask, _nearest(height, new_height), _nearest(width, new_width)
    )
    return square


def _nearest(length: int, new_length: int) -> NDArray[np.int64]:
    """Return, for each of ``new_length`` pixels, which of ``length`` pixels is at its centre."""
    return (2 * np.arange(new_length) + 1) * length // (2 * new_length)


def inside_image(width: int, height: int, size: int) -> NDArray[np.bool_]:
    """Return which pixels of a square of side ``size`` are image, not padding, (size, size)."""
    new_width, new_height = resized_size(width, height, size)
    inside = np.zeros((size, size), dtype=np.bool_)
    inside[:new_height, :new_width] = True
    return inside


def logits_to_image(logits: Tensor, *, width: int, height: int, side: int) -> Tensor:
    """Resize mask logits of the square to the image, as SAM's ``postprocess_masks``.

    Args:
        logits: Mask logits over the whole square, shape (n, n).
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        side: Side of the square in pixels.

    Returns:
        Logits of shape (height, width), float32: resized bilinearly to (side, side), cropped to
        the image, resized bilinearly to its size.
    """
    new_width, new_height = resized_size(width, height, side)
    square = F.interpolate(
        logits[None, None].float(), (side, side), mode="bilinear", align_corners=False
    )
    content = square[..., :new_height, :new_width]
    return F.interpolate(content, (height, width), mode="bilinear", align_corners=False)[0, 0]


def grid_to_normalised(cells: Tensor, grid: tuple[int, int], convention: Convention) -> Tensor:
    """Convert positions in grid cells to normalised coordinates of the square.

    Args:
        cells: (x, y) in cells, cell centres at whole numbers, shape (..., 2).
        grid: (rows, columns) of the grid.
        convention: ``centre`` places cell i of G at (i + 0.5) / G, ``corner`` at i / (G - 1).

    Returns:
        (x, y), shape (..., 2).
    """
    rows, columns = grid
    x, y = cells.unbind(-1)
    if convention == "corner":
        x, y = x / max(columns - 1, 1), y / max(rows - 1, 1)
    else:
        x, y = (x + 0.5) / columns, (y + 0.5) / rows
    return torch.stack([x, y], dim=-1)


def resize_map(maps: Tensor, size: tuple[int, int], convention: Convention) -> Tensor:
    """Resize maps over the grid, bilinearly, to pixels of the square.

    Args:
        maps: Values of the cells, shape (Q, rows, columns).
        size: (height, width) of the square in pixels.
        convention: Where the cells are, as for ``grid_to_normalised``.

    Returns:
        Shape (Q, height, width).
    """
    return F.interpolate(
        maps[:, None], size, mode="bilinear", align_corners=convention == "corner"
    )[:, 0]


def normalised_to_image(
    points: NDArray[np.float64], *, width: int, height: int
) -> NDArray[np.float64]:
    """Convert normalised coordinates of the square to pixels of the image.

    Args:
        points: (x, y) in normalised coordinates, shape (..., 2).
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Returns:
        (x, y) in pixels, 0 at the left and top edge of the image, so that pixel i covers i to
        i + 1, shape (..., 2). Points in the padding are outside the image.
    """
    return points * float(max(width, height))


def image_to_normalised(
    points: NDArray[np.float64], *, width: int, height: int
) -> NDArray[np.float64]:
    """Convert pixels of the image to normalised coordinates of the square.

    The inverse of ``normalised_to_image``, with the same arguments.
    """
    return points / float(max(width, height))
