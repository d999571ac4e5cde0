"""Boundary IoU against a slow plain reference: erosion pixel by pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lens_cache.evaluation.boundary import boundary, boundary_iou, boundary_width


def eroded(mask, times):
    """Erode by a square of 3 x 3, again and again; outside the image is background."""
    for _ in range(times):
        padded = np.pad(mask, 1)
        mask = np.array(
            [
                [padded[y : y + 3, x : x + 3].all() for x in range(mask.shape[1])]
                for y in range(mask.shape[0])
            ],
            dtype=bool,
        )
    return mask


def masks(seed, height, width, count=2):
    """Return random blobs, so that something survives an erosion."""
    rng = np.random.default_rng(seed)
    found = np.zeros((count, height, width), dtype=bool)
    for mask in found:
        for _ in range(rng.integers(0, 4)):
            y, x = rng.integers(0, height), rng.integers(0, width)
            mask[y : y + rng.integers(1, height + 1), x : x + rng.integers(1, width + 1)] = True
    return found


@given(st.integers(0, 10**6), st.integers(1, 70), st.integers(1, 70))
def test_the_boundary_is_what_repeated_erosion_removes(seed, height, width):
    (mask,) = masks(seed, height, width, 1)
    expected = mask & ~eroded(mask, max(1, round(0.02 * (height**2 + width**2) ** 0.5)))
    assert np.array_equal(boundary(torch.from_numpy(mask)).numpy(), expected)


@given(st.integers(0, 10**6))
def test_boundary_iou_is_that_of_the_boundaries(seed):
    ours, theirs, ignore = masks(seed, 40, 60, 3)
    edges = [mask & ~eroded(mask, boundary_width(40, 60)) & ~ignore for mask in (ours, theirs)]
    either = (edges[0] | edges[1]).sum()
    expected = (edges[0] & edges[1]).sum() / either if either else 1.0
    found = boundary_iou(*(torch.from_numpy(mask) for mask in (ours, theirs, ignore)))
    assert float(found) == pytest.approx(expected)


def test_a_mask_that_fills_the_image_has_a_boundary_at_the_border():
    full = torch.ones(2, 100, 100, dtype=torch.bool)
    assert boundary_width(100, 100) == 3
    assert boundary(full).sum(dim=(-2, -1)).tolist() == [100**2 - 94**2] * 2
