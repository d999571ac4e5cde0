import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.models.keypoints import refine_keypoints, sample_neighbourhood, select_keypoints


def _slow_nms(heatmap, max_keypoints, radius, threshold):
    """Read S1.1 aloud."""
    left, found = heatmap.copy(), []
    peak = heatmap.max()
    while len(found) < max_keypoints:
        y, x = np.unravel_index(left.argmax(), left.shape)
        if left[y, x] <= 0 or left[y, x] < np.float32(threshold) * peak:
            break
        found.append((x, y))
        for row in range(left.shape[0]):
            for column in range(left.shape[1]):
                if (column - x) ** 2 + (row - y) ** 2 <= radius**2:
                    left[row, column] = 0
    return found


def _bilinear(heatmap, x, y):
    """Sample at (x, y) in cells; outside, the border's value continues."""
    height, width = heatmap.shape
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = int(np.floor(x)), int(np.floor(y))
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    dx, dy = x - left, y - top
    upper = (1 - dx) * heatmap[top, left] + dx * heatmap[top, right]
    lower = (1 - dx) * heatmap[bottom, left] + dx * heatmap[bottom, right]
    return (1 - dy) * upper + dy * lower


def _slow_newton(heatmap, x, y, epsilon=1e-6):
    """Read eq. 3 to 8 of S1.2 aloud."""
    steps = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (-1, 1), (1, -1)]
    outside = np.pad(heatmap, 1)  # zeros
    v = [outside[y + dy + 1, x + dx + 1] for dx, dy in steps]
    gradient = np.array([(v[1] - v[2]) / 2, (v[3] - v[4]) / 2])
    d_xx, d_yy = v[1] - 2 * v[0] + v[2], v[3] - 2 * v[0] + v[4]
    d_xy = (v[5] + v[6] - v[7] - v[8]) / 4
    hessian = np.array([[d_xx, d_xy], [d_xy, d_yy]]) + epsilon * np.eye(2)
    return np.array([x, y]) + np.clip(-np.linalg.inv(hessian) @ gradient, -1, 1)


def _random_maps(seed, count=5, height=9, width=7):
    return np.random.default_rng(seed).random((count, height, width)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 20),
    st.sampled_from([0.0, 1.0, 1.5, 4.0]),
    st.sampled_from([0.0, 0.4, 0.9]),
)
def test_selection_equals_a_plain_loop(seed, max_keypoints, radius, threshold):
    maps = _random_maps(seed)
    maps[1] = np.round(maps[1], 1)  # ties and zeros
    maps[2] *= maps[2] > 0.8
    cells, mask = select_keypoints(
        torch.from_numpy(maps), max_keypoints=max_keypoints, radius=radius, threshold=threshold
    )
    assert cells.shape == (5, max_keypoints, 2)
    for heatmap, xy, valid in zip(maps, cells, mask, strict=True):
        expected = _slow_nms(heatmap, max_keypoints, radius, threshold)
        assert valid.tolist() == [i < len(expected) for i in range(max_keypoints)]
        assert [tuple(map(int, p)) for p in xy[valid]] == expected


def test_empty_slots_copy_slot_zero():
    heatmap = torch.zeros(1, 5, 6)
    heatmap[0, 3, 4] = 0.5
    cells, mask = select_keypoints(heatmap, max_keypoints=3, radius=1)
    assert cells.tolist() == [[[4, 3]] * 3]
    assert mask.tolist() == [[True, False, False]]


def test_a_map_without_response_has_no_keypoint():
    cells, mask = select_keypoints(torch.zeros(2, 4, 4), max_keypoints=2)
    assert not mask.any()
    assert cells.isfinite().all()


def test_suppression_radius_is_inclusive():
    heatmap = torch.zeros(1, 1, 10)
    heatmap[0, 0, [0, 4, 9]] = torch.tensor([1.0, 0.9, 0.8])
    cells, mask = select_keypoints(heatmap, radius=4, max_keypoints=3)
    assert cells[mask][:, 0].tolist() == [0, 9]


def test_a_peak_at_the_threshold_is_kept():
    heatmap = torch.tensor([[[1.0, 0.0, 0.5, 0.0, 0.25]]])
    _, mask = select_keypoints(heatmap, radius=1, threshold=0.5, max_keypoints=3)
    assert mask.tolist() == [[True, True, False]]


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"shape \(Q, H, W\), got \(3, 3\)"):
        select_keypoints(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="max_keypoints must be positive, got 0"):
        select_keypoints(torch.zeros(1, 3, 3), max_keypoints=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_newton_step_equals_a_plain_reading(seed):
    maps = _random_maps(seed, count=3)
    cells, _ = select_keypoints(torch.from_numpy(maps), max_keypoints=6, radius=2)
    refined = refine_keypoints(torch.from_numpy(maps), cells)
    for heatmap, from_xy, to_xy in zip(maps.astype(np.float64), cells, refined, strict=True):
        for start, end in zip(from_xy.int().tolist(), to_xy.numpy(), strict=True):
            np.testing.assert_allclose(end, _slow_newton(heatmap, *start), atol=2e-3)


def test_the_top_of_a_parabola_is_found():
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    heatmap = 1 - 0.01 * (x - 4.3) ** 2 - 0.02 * (y - 3.8) ** 2 - 0.005 * (x - 4.3) * (y - 3.8)
    refined = refine_keypoints(heatmap[None], torch.tensor([[[4.0, 4.0]]]))
    torch.testing.assert_close(refined, torch.tensor([[[4.3, 3.8]]]), atol=1e-2, rtol=0)


@pytest.mark.parametrize("value", [0.0, 1e-6, 0.3, 1.0])
def test_a_flat_map_moves_nothing(value):
    inner = torch.tensor([[[1.0, 1.0], [3.0, 2.0], [2.0, 1.0]]])
    assert torch.equal(refine_keypoints(torch.full((1, 4, 5), value), inner), inner)


def test_a_ridge_moves_across_itself_only():
    heatmap = torch.tensor([0.0, 0.4, 1.0, 0.6, 0.0]).expand(1, 5, 5)
    refined = refine_keypoints(heatmap, torch.tensor([[[2.0, 2.0]]]))
    torch.testing.assert_close(refined, torch.tensor([[[2.1, 2.0]]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.5])
def test_a_peak_in_a_border_cell_is_found_inside_the_frame(sigma):
    """The map is zero outside, so the step goes inwards; the frame's edge is half a cell out."""
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")
    cell = torch.tensor([[[0.0, 4.0]]])
    for peak in (-0.2, 0.0, 0.2):
        heatmap = (-((x - peak) ** 2 + (y - 4) ** 2) / (2 * sigma**2)).exp()[None]
        found_x, found_y = refine_keypoints(heatmap, cell)[0, 0].tolist()
        assert found_y == pytest.approx(4, abs=1e-4)
        assert 0 <= found_x <= 0.5


ONE = torch.tensor([0])  # one question, on the first image


@pytest.mark.parametrize("size", [1, 3])
def test_neighbourhood_equals_slow_bilinear_sampling(size):
    rng = np.random.default_rng(0)
    features, image = rng.random((2, 5, 7, 3)), [1, 0, 1]
    points = rng.uniform([-1, -1], [7, 5], size=(3, 4, 2))
    patches = sample_neighbourhood(
        torch.from_numpy(features), torch.from_numpy(points), torch.tensor(image), size
    )
    assert patches.shape == (3, 4, size * size, 3)
    reach = size // 2
    steps = [(x, y) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    for q in range(3):
        for k in range(4):
            for s, (dx, dy) in enumerate(steps):
                x, y = points[q, k] + [dx, dy]
                expected = [_bilinear(features[image[q], :, :, c], x, y) for c in range(3)]
                np.testing.assert_allclose(patches[q, k, s], expected, atol=1e-6)


def test_a_grid_of_one_cell_can_be_sampled():
    patches = sample_neighbourhood(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 2), ONE)
    assert torch.equal(patches, torch.ones(1, 1, 9, 2))


def test_a_place_that_is_not_a_number_spoils_its_own_patch_alone():
    points = torch.tensor([[[torch.nan, 1.0], [1.0, 1.0]]])
    patches = sample_neighbourhood(torch.ones(1, 3, 3, 2), points, ONE)
    assert patches[0, 0].isnan().all()
    assert torch.equal(patches[0, 1], torch.ones(9, 2))


def test_features_get_their_gradient():
    features = torch.rand(1, 3, 4, 2, dtype=torch.float64, requires_grad=True)
    points = torch.tensor([[[1.3, 0.6], [2.9, 1.9]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: sample_neighbourhood(f, points, ONE), features)


def test_no_gradient_flows_into_coordinates():
    heatmap = torch.rand(1, 5, 5, requires_grad=True)
    cells, _ = select_keypoints(heatmap, max_keypoints=2)
    assert not refine_keypoints(heatmap, cells).requires_grad
