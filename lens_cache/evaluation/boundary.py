"""Boundary IoU: how well the edges of a mask fit.

Source: Cheng et al., "Boundary IoU" (CVPR 2021), with the erosion of its reference implementation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Width of the boundary as a share of the diagonal of the image.
RATIO = 0.02


def boundary_width(height: int, width: int) -> int:
    """Return the width of the boundary in pixels, at least 1, for an image of this size."""
    return max(1, round(RATIO * math.hypot(height, width)))


def boundary(mask: Tensor) -> Tensor:
    """Return the pixels of a mask that are at most ``boundary_width`` from its edge.

    The distance is the larger one of those along the two axes; the border of the image is an edge.

    Args:
        mask: Bool, shape (..., H, W).

    Returns:
        Bool, the same shape.
    """
    height, width = mask.shape[-2:]
    reach = boundary_width(height, width)
    # The sum over a window, from the sums over all rectangles that begin at the upper left corner.
    side = 2 * reach + 1
    padded = F.pad(mask.to(torch.int32), (reach + 1, reach, reach + 1, reach))
    sums = padded.cumsum(-1, dtype=torch.int32).cumsum(-2, dtype=torch.int32)
    rows = sums[..., side:, :] - sums[..., :-side, :]
    inside = rows[..., side:] - rows[..., :-side]
    return mask & (inside < side**2)


def boundary_iou(prediction: Tensor, target: Tensor, ignore: Tensor | None = None) -> Tensor:
    """Return the IoU of the boundaries of two masks, float64: 1 if neither has one.

    Args:
        prediction: Bool, shape (..., H, W).
        target: Bool, shape (..., H, W).
        ignore: Pixels that are not counted, bool, shape (..., H, W).
    """
    ours, theirs = boundary(prediction), boundary(target)
    if ignore is not None:
        ours, theirs = ours & ~ignore, theirs & ~ignore
    both = (ours & theirs).sum(dim=(-2, -1)).double()
    either = (ours | theirs).sum(dim=(-2, -1)).double()
    return torch.where(either == 0, 1.0, both / either.clamp(min=1))
