"""From a grounding map to keypoints and the features around them (paper section 3.2, S1.1, S1.2).

Positions here are (x, y) in cells of the grid, cell centres at whole numbers; ``geometry`` turns
them into coordinates of the square. They are choices, not differentiable values: callers pass a
detached map, and the grounding map learns from the attention loss. Differentiating the Newton
step instead would divide by near-singular Hessians.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6  # Tikhonov term of S1.2
SINGULAR = 1e-12  # A Hessian whose determinant is not above this is inverted diagonally.
MAX_OFFSET = 1.0  # in cells


def select_keypoints(
    heatmap: Tensor, *, max_keypoints: int = 16, radius: float = 4.0, threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pick the strongest, mutually distant peaks of each heatmap (S1.1).

    Greedy: the highest remaining response wins, then every cell within ``radius`` is set to zero.
    Ends early once nothing positive, or nothing as strong as the threshold, is left.

    Args:
        heatmap: Non-negative responses, shape (Q, H, W).
        max_keypoints: Upper limit m on the peaks of a heatmap.
        radius: Euclidean suppression radius in cells, inclusive.
        threshold: Peaks below this share of the heatmap's highest response are dropped.

    Returns:
        Cells (x, y) as float32, shape (Q, m, 2), a copy of slot 0 where there is no keypoint, and
        the bool mask of real keypoints, shape (Q, m).

    Raises:
        ValueError: If ``heatmap`` is not 3-D or ``max_keypoints`` is not positive.
    """
    if heatmap.ndim != 3:
        raise ValueError(f"heatmap must have shape (Q, H, W), got {tuple(heatmap.shape)}")
    if max_keypoints < 1:
        raise ValueError(f"max_keypoints must be positive, got {max_keypoints}")
    remaining, width = heatmap.detach().flatten(1), heatmap.shape[2]
    floor = threshold * remaining.amax(dim=1)
    index = torch.arange(remaining.shape[1], device=heatmap.device)
    column, row = index % width, index // width
    chosen, valid = [], []
    for _ in range(max_keypoints):
        value, best = remaining.max(dim=1, keepdim=True)
        chosen.append(best)
        valid.append((value[:, 0] > 0) & (value[:, 0] >= floor))
        distance = (column - best % width) ** 2 + (row - best // width) ** 2
        remaining = remaining.masked_fill(distance <= radius**2, 0)
    mask = torch.stack(valid, dim=1)
    slots = torch.cat(chosen, dim=1)
    slots = torch.where(mask, slots, slots[:, :1])
    return torch.stack([slots % width, slots // width], dim=-1).float(), mask


def refine_keypoints(heatmap: Tensor, cells: Tensor) -> Tensor:
    """Move each keypoint to the top of a parabola through its neighbours (S1.2, eq. 3 to 8).

    At whole cells the paper's bilinear samples are the cells themselves. Beyond the border the
    border's value counts on, where sampling zeros would push border points inwards.

    Args:
        heatmap: Responses, shape (Q, H, W); not differentiated.
        cells: Whole-numbered (x, y), shape (Q, m, 2).

    Returns:
        Sub-pixel (x, y) in cells, float32, at most one cell away in x and in y, shape (Q, m, 2).
    """
    width = heatmap.shape[2]
    padded = F.pad(heatmap.detach().float()[:, None], (1, 1, 1, 1), mode="replicate")
    neighbours = F.unfold(padded, 3)  # (Q, 9, H * W), each 3 x 3 patch in row-major order
    position = (cells[..., 1] * width + cells[..., 0]).long()
    at = neighbours.gather(2, position[:, None].expand(-1, 9, -1)).unbind(1)
    north_west, north, north_east, west, centre, east, south_west, south, south_east = at
    d_x, d_y = (east - west) / 2, (south - north) / 2
    d_xx = east - 2 * centre + west + EPSILON
    d_yy = south - 2 * centre + north + EPSILON
    d_xy = (south_east + north_west - south_west - north_east) / 4
    determinant = d_xx * d_yy - d_xy**2
    newton_x = -_divide(d_yy * d_x - d_xy * d_y, determinant)
    newton_y = -_divide(d_xx * d_y - d_xy * d_x, determinant)
    regular = determinant.abs() > SINGULAR
    offset_x = torch.where(regular, newton_x, -_divide(d_x, d_xx))
    offset_y = torch.where(regular, newton_y, -_divide(d_y, d_yy))
    offset = torch.stack([offset_x, offset_y], dim=-1).clamp(-MAX_OFFSET, MAX_OFFSET)
    return cells.float() + offset


def sample_neighbourhood(features: Tensor, points: Tensor, image: Tensor, size: int = 3) -> Tensor:
    """Sample a size x size patch of features around each point, one cell apart (d_N(i)).

    Args:
        features: Features of B images, shape (B, H, W, d).
        points: (x, y) in cells, whole numbers at cell centres, shape (Q, m, 2).
        image: Image of each question, int64, shape (Q,).
        size: Side p of the patch; its middle lies on the point.

    Returns:
        Bilinear samples, row-major within a patch, shape (Q, m, p * p, d); outside the grid the
        nearest border value. At least float32.
    """
    height, width = features.shape[1:3]
    dtype = torch.promote_types(features.dtype, torch.float32)
    steps = torch.arange(size, device=points.device) - (size - 1) / 2
    offset_y, offset_x = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([offset_x, offset_y], dim=-1).flatten(0, 1)
    x, y = (points[:, :, None] + offsets).to(dtype).unbind(-1)
    corners = [
        ((image[:, None, None] * height + row) * width + column, row_weight * column_weight)
        for row, row_weight in _neighbours(y, height)
        for column, column_weight in _neighbours(x, width)
    ]
    cells, weights = (torch.stack(each, dim=-1) for each in zip(*corners, strict=True))
    # A weighted sum of rows; grid_sample would want a copy of its image for each question.
    sampled = F.embedding_bag(
        cells.flatten(0, -2),
        features.to(dtype).flatten(0, 2),
        per_sample_weights=weights.flatten(0, -2),
        mode="sum",
    )
    return sampled.view(*x.shape, -1)


def _neighbours(position: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """Return the cells before and behind a position, int64, each with its share of the value."""
    inside = position.clamp(0, length - 1)
    # What is not a number stays so in its share, for the loss to tell, yet names a cell.
    before = inside.floor().nan_to_num(0).clamp(max=max(length - 2, 0))
    behind = (before + 1).clamp(max=length - 1)
    share = inside - before
    return [(before.long(), 1 - share), (behind.long(), share)]


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with EPSILON in place of a denominator that is zero."""
    return numerator / torch.where(denominator == 0, EPSILON, denominator)
