import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lens_cache.images.geometry import (
    grid_to_normalised,
    image_to_square,
    inside_image,
    logits_to_image,
    mask_to_square,
    normalised_to_image,
    resized_size,
)
from lens_cache.images.masks import encode

SIZES = st.integers(1, 200)


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, st.sampled_from([16, 64, 100]))
def test_the_longest_side_fills_the_square(width, height, side):
    new_width, new_height = resized_size(width, height, side)
    assert max(new_width, new_height) == side
    assert min(new_width, new_height) >= 1
    assert new_width == pytest.approx(width * side / max(width, height), abs=1)
    assert inside_image(width, height, side).sum() == new_width * new_height


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.data())
def test_a_cell_and_its_pixel_in_the_image_agree(width, height, data):
    side = max(width, height)  # one image pixel per square pixel
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    normalised = grid_to_normalised(torch.tensor([x, y]).double(), (side, side), "centre")
    pixels = normalised_to_image(normalised.numpy(), width=width, height=height)
    np.testing.assert_allclose(pixels, [x + 0.5, y + 0.5], atol=1e-9)


def test_the_two_conventions_place_cells_as_documented():
    cells = torch.tensor([[0.0, 0.0], [23.0, 11.0]])
    centre = grid_to_normalised(cells, (12, 24), "centre")
    corner = grid_to_normalised(cells, (12, 24), "corner")
    torch.testing.assert_close(centre, torch.tensor([[0.5 / 24, 0.5 / 12], [23.5 / 24, 11.5 / 12]]))
    torch.testing.assert_close(corner, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))


def test_a_grid_of_one_cell_does_not_divide_by_zero():
    assert grid_to_normalised(torch.zeros(2), (1, 1), "corner").tolist() == [0, 0]


def test_padding_of_the_square_is_black_and_outside():
    square = image_to_square(np.full((10, 20, 3), 200, dtype=np.uint8), 40)
    inside = inside_image(20, 10, 40)
    assert (square[inside] == 200).all()
    assert (square[~inside] == 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 70), st.integers(0, 2**31))
def test_a_mask_is_resized_into_the_square_as_pillow_does(width, height, size, seed):
    mask = np.random.default_rng(seed).random((height, width)) > 0.5
    inside = resized_size(width, height, size)
    expected = np.zeros((size, size), dtype=bool)
    resized = Image.fromarray(mask).resize(inside, Image.Resampling.NEAREST)
    expected[: inside[1], : inside[0]] = np.asarray(resized)
    found = mask_to_square(encode(mask), size)
    # Where a centre falls between two pixels, Pillow's rounding errors decide.
    clear = np.ix_(
        *(
            ((2 * np.arange(n) + 1) * length) % (2 * n) != 0
            for n, length in ((inside[1], height), (inside[0], width))
        )
    )
    np.testing.assert_array_equal(
        found[: inside[1], : inside[0]][clear], expected[: inside[1], : inside[0]][clear]
    )
    assert not found[inside[1] :].any()
    assert not found[:, inside[0] :].any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40))
def test_a_full_mask_covers_exactly_the_image(width, height):
    mask = mask_to_square(encode(np.ones((height, width), dtype=bool)), 32)
    np.testing.assert_array_equal(mask, inside_image(width, height, 32))


@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 30), (32, 32), (7, 90)])
def test_logits_are_resized_to_the_pixels_of_the_image(width, height):
    mask = np.zeros((height, width), dtype=bool)
    mask[: height // 2, : width // 2] = True
    logits = torch.from_numpy(mask_to_square(encode(mask), 64)).float() * 2 - 1
    back = logits_to_image(logits, width=width, height=height, side=64) > 0
    assert back.shape == (height, width)
    assert (back.numpy() == mask).mean() > 0.9


def test_logits_follow_the_steps_of_sam_post_processing():
    logits = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    resize = torch.nn.functional.interpolate
    square = resize(logits[None, None], (64, 64), mode="bilinear")
    expected = resize(square[..., :32, :64], (25, 50), mode="bilinear")[0, 0]
    torch.testing.assert_close(logits_to_image(logits, width=50, height=25, side=64), expected)
