import dataclasses

import numpy as np
import pytest

from lens_cache.images.panels import PANEL_SIDE, Panel

WHITE, RED = (255, 255, 255), (230, 40, 40)
TITLE, GAP = 44, 6


def panel(width, height, keypoints, *, prediction=None, truth=None, peak=None):
    grounding = np.zeros((4, 4), np.float32)
    if peak is not None:
        grounding[peak] = 0.3
    return Panel(
        image=np.full((height, width, 3), 128, np.uint8),
        title="a title",
        grounding_map=grounding,
        keypoints=np.array(keypoints, np.float32).reshape(-1, 2),
        prediction=np.zeros((height, width), bool) if prediction is None else prediction,
        truth=truth,
    )


def pixel(drawn, number, x, y):
    """Return a pixel of image ``number`` of the row, at (x, y) of its own frame."""
    step = PANEL_SIDE + GAP
    return drawn.getpixel((GAP + number * step + round(x), TITLE + round(y)))


@pytest.mark.parametrize("with_truth", [False, True])
def test_a_keypoint_is_white_inside_the_prediction_and_red_elsewhere(with_truth):
    prediction = np.zeros((30, 60), bool)
    prediction[:, :30] = True
    truth = ~prediction if with_truth else None
    drawn = panel(60, 30, [[0.25, 0.25], [0.75, 0.25]], prediction=prediction, truth=truth).draw()
    assert pixel(drawn, 1, 0.25 * PANEL_SIDE, 0.25 * PANEL_SIDE) == WHITE
    assert pixel(drawn, 1, 0.75 * PANEL_SIDE, 0.25 * PANEL_SIDE) == RED


@pytest.mark.parametrize("points", [[], [[0.5, 0.9]], [[1.0, 1.0]], [[0.0, 0.0]]])
def test_points_on_the_edge_or_in_the_padding_are_drawn(points):
    assert panel(40, 20, points, truth=np.ones((20, 40), bool)).draw().size[1] == 180 + TITLE + GAP


def test_the_grounding_map_is_drawn_in_the_frame_of_the_square():
    """Cell (0, 3) is at the top right of a wide image, whose square has padding below."""
    drawn = panel(60, 30, [], peak=(0, 3)).draw()
    hot = pixel(drawn, 1, PANEL_SIDE * 3.5 / 4, PANEL_SIDE * 0.5 / 4)
    cold = pixel(drawn, 1, PANEL_SIDE * 0.5 / 4, PANEL_SIDE * 0.5 / 4)
    assert hot[0] > 200
    assert cold[0] < 100


def test_masks_are_tinted_and_truth_is_a_fourth_image():
    mask = np.zeros((40, 40), bool)
    mask[:, :20] = True
    three = panel(40, 40, [], prediction=mask).draw()
    four = panel(40, 40, [], prediction=mask, truth=~mask).draw()
    assert four.size[0] - three.size[0] == PANEL_SIDE + GAP
    left, right = (pixel(four, 2, PANEL_SIDE * x, 100) for x in (0.25, 0.75))
    assert left[2] > left[0]
    assert len(set(right)) == 1
    left, right = (pixel(four, 3, PANEL_SIDE * x, 100) for x in (0.25, 0.75))
    assert right[1] > right[0]
    assert len(set(left)) == 1


def test_images_are_drawn_in_any_size():
    images = panel(60, 30, [[0.5, 0.1]], truth=np.ones((30, 60), bool)).images(100)
    assert list(images) == ["image", "grounding map", "prediction", "ground truth"]
    assert {image.size for image in images.values()} == {(100, 50)}


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000)])
def test_odd_sizes_are_drawn(size):
    panel(*size, [[0.5, 0.5]]).draw()


@pytest.mark.parametrize("colour", [(30, 144, 255), (60, 200, 90), (255, 255, 255), (0, 0, 0)])
def test_a_mask_is_outlined_on_a_thing_of_its_own_colour(colour):
    mask = np.zeros((60, 60), bool)
    mask[15:45, 15:45] = True
    drawn = panel(60, 60, [], prediction=mask, truth=mask)
    drawn = dataclasses.replace(drawn, image=np.full((60, 60, 3), colour, np.uint8))
    for name in ("prediction", "ground truth"):
        pixels = np.asarray(drawn.images(60)[name]).astype(int)
        inside, edge, outside = pixels[30, 30], pixels[30, 15], pixels[30, 5]
        assert np.abs(edge - inside).sum() > 60
        assert np.abs(pixels[30, 14] - outside).sum() > 60 or np.abs(edge - outside).sum() > 60
