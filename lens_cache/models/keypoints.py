"""From a grounding map to keypoints and the features around them (paper section 3.2, S1.1, S1.2).

Positions here are (x, y) in cells of the grid, with cell centres at whole numbers;
``geometry.grid_to_normalised`` turns them into coordinates of the square. They carry no gradient:
the grounding map learns from the attention loss alone, because the gradient of the Newton step
would divide by near-singular Hessians.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6  # Tikhonov term of S1.2
SINGULAR = 1e-12  # With a smaller determinant only the diagonal of the Hessian is inverted.
MAX_OFFSET = 1.0  # in cells


def select_keypoints(
    heatmap: Tensor, *, max_keypoints: int = 16, radius: float = 4.0, threshold: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Pick the strongest, mutually distant peaks of each heatmap (S1.1).

    Greedy: takes the highest remaining response, then sets every cell within ``radius`` to zero.
    Ends early if no remaining response is positive and at least the threshold.

    Args:
        heatmap: Non-negative responses, shape (Q, H, W).
        max_keypoints: Upper limit m on the peaks of a heatmap.
        radius: Euclidean suppression radius in cells, inclusive.
        threshold: Peaks below this share of the heatmap's highest response are not taken.

    Returns:
        (x, y) in whole cells as float32, shape (Q, m, 2), a copy of slot 0 where there is no
        keypoint, and which keypoints exist, bool, shape (Q, m).

    Raises:
        ValueError: If ``heatmap`` is not 3-D or ``max_keypoints`` is not positive.
    """
    if heatmap.ndim != 3:
        raise ValueError(f"heatmap must have shape (Q, H, W), got {tuple(heatmap.shape)}")
    if max_keypoints < 1:
        raise ValueError(f"max_keypoints must be positive, got {max_keypoints}")
    width = heatmap.shape[2]
    remaining = heatmap.detach().flatten(1)  # (Q, H * W)
    floor = threshold * remaining.amax(dim=1)
    index = torch.arange(remaining.shape[1], device=heatmap.device)
    column = index % width
    row = index // width

    # Take the highest response, suppress its surroundings, repeat.
    peaks, exists = [], []
    for _ in range(max_keypoints):
        value, peak = remaining.max(dim=1, keepdim=True)  # (Q, 1)
        peaks.append(peak)
        exists.append((value[:, 0] > 0) & (value[:, 0] >= floor))
        squared_distance = (column - peak % width) ** 2 + (row - peak // width) ** 2
        remaining = remaining.masked_fill(squared_distance <= radius**2, 0)

    keypoint_mask = torch.stack(exists, dim=1)  # (Q, m)
    cells = torch.cat(peaks, dim=1)  # (Q, m)
    cells = torch.where(keypoint_mask, cells, cells[:, :1])
    return torch.stack([cells % width, cells // width], dim=-1).float(), keypoint_mask


def refine_keypoints(heatmap: Tensor, cells: Tensor) -> Tensor:
    """Move each keypoint to the top of a parabola through its neighbours (S1.2, eq. 3 to 8).

    One Newton step. At whole cells the paper's bilinear samples are the cells themselves. The map
    is zero outside the grid, as in the released code: a peak in a border cell moves inwards.

    Args:
        heatmap: Responses, shape (Q, H, W); gets no gradient.
        cells: (x, y) in whole cells, shape (Q, m, 2).

    Returns:
        Sub-pixel (x, y) in cells, float32, shape (Q, m, 2), at most one cell away in x and in y.
    """
    width = heatmap.shape[2]
    padded = F.pad(heatmap.detach().float()[:, None], (1, 1, 1, 1))

    # The 3 x 3 values around each keypoint.
    patches = F.unfold(padded, 3)  # (Q, 9, H * W), each patch in row-major order
    index = (cells[..., 1] * width + cells[..., 0]).long()  # (Q, m)
    values = patches.gather(2, index[:, None].expand(-1, 9, -1))  # (Q, 9, m)
    north_west, north, north_east, west, centre, east, south_west, south, south_east = (
        values.unbind(1)
    )

    # Gradient and Hessian by finite differences.
    d_x = (east - west) / 2
    d_y = (south - north) / 2
    d_xx = east - 2 * centre + west + EPSILON
    d_yy = south - 2 * centre + north + EPSILON
    d_xy = (south_east + north_west - south_west - north_east) / 4
    determinant = d_xx * d_yy - d_xy**2

    # Newton step; with a singular Hessian, one step along each axis by itself.
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
        points: (x, y) in cells, cell centres at whole numbers, shape (Q, m, 2).
        image: Index of each question's image, int64, shape (Q,).
        size: Side p of the patch, which is centred on the point.

    Returns:
        Bilinear samples, row-major within a patch, shape (Q, m, p * p, d), float32 (float64 for
        float64 features); outside the grid the nearest border value.
    """
    height, width = features.shape[1:3]
    dtype = torch.promote_types(features.dtype, torch.float32)
    # Sampling positions: the point plus every offset of the patch.
    steps = torch.arange(size, device=points.device) - (size - 1) / 2
    offset_y, offset_x = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([offset_x, offset_y], dim=-1).flatten(0, 1)  # (p * p, 2)
    positions = (points[:, :, None] + offsets).to(dtype)  # (Q, m, p * p, 2)
    x, y = positions.unbind(-1)

    # The four cells around a position, and their bilinear weights.
    first_cell = image[:, None, None] * height * width
    cells, weights = [], []
    for row, row_weight in _neighbours(y, height):
        for column, column_weight in _neighbours(x, width):
            cells.append(first_cell + row * width + column)
            weights.append(row_weight * column_weight)
    cell = torch.stack(cells, dim=-1)  # (Q, m, p * p, 4)
    weight = torch.stack(weights, dim=-1)  # (Q, m, p * p, 4)

    # A weighted sum of rows; grid_sample would need a copy of the image for each question.
    sampled = F.embedding_bag(
        cell.flatten(0, -2),
        features.to(dtype).flatten(0, 2),
        per_sample_weights=weight.flatten(0, -2),
        mode="sum",
    )
    return sampled.view(*x.shape, -1)  # (Q, m, p * p, d)


def _neighbours(position: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """Return the cells before and after a position, int64, each with its linear weight."""
    inside = position.clamp(0, length - 1)
    # NaN stays in the weight, so that the loss shows it; the cell must be a valid index.
    before = inside.floor().nan_to_num(0).clamp(max=max(length - 2, 0))
    after = (before + 1).clamp(max=length - 1)
    share = inside - before
    return [(before.long(), 1 - share), (after.long(), share)]


def _divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide; a denominator of zero is replaced by EPSILON."""
    return numerator / torch.where(denominator == 0, EPSILON, denominator)
