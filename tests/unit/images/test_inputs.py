import re

import numpy as np
import pytest
from PIL import Image

from lens_cache.errors import ImageError
from lens_cache.images.inputs import rgb_pixels
from tests.support.pictures import colours, encoded, rotated


def test_each_form_of_one_image_gives_the_same_pixels(tmp_path):
    pixels = colours(12, 8)
    file = tmp_path / "image.png"
    file.write_bytes(encoded(pixels))
    forms = (
        str(file),
        file,
        file.read_bytes(),
        Image.fromarray(pixels),
        Image.open(file),
        pixels,
        pixels / 255,
    )
    for image in forms:
        np.testing.assert_array_equal(rgb_pixels(image), pixels)


@pytest.mark.parametrize("form", [str, Image.open])
def test_exif_orientation_is_applied(tmp_path, form):
    file = tmp_path / "image.png"
    file.write_bytes(rotated(colours(12, 8), 6))
    np.testing.assert_array_equal(rgb_pixels(form(file)), np.rot90(colours(12, 8), -1))


def test_grey_becomes_rgb():
    grey = colours()[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    for image in (grey, grey[..., None], Image.fromarray(grey)):
        np.testing.assert_array_equal(rgb_pixels(image), expected)
    black = rgb_pixels(np.eye(8, 12, dtype=bool))
    np.testing.assert_array_equal(
        black, 255 * np.eye(8, 12, dtype=np.uint8)[..., None].repeat(3, 2)
    )


def test_transparent_pixels_become_white():
    opaque = np.dstack([colours(), np.full((8, 12), 255, np.uint8)])
    np.testing.assert_array_equal(rgb_pixels(opaque), colours())
    assert (rgb_pixels(opaque * np.array([1, 1, 1, 0], np.uint8)) == 255).all()


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.full((8, 12, 3), 255, np.float32), "float32 (8, 12, 3) from 255.0 to 255.0"),
        (np.full((8, 12, 3), np.nan, np.float32), "float32 (8, 12, 3) from nan to nan"),
        (np.full((8, 12, 3), -1, np.int64), "int64 (8, 12, 3) from -1 to -1"),
        (np.zeros((3, 8, 12), np.uint8), "uint8 (3, 8, 12)"),
        (np.zeros((0, 12, 3), np.uint8), "uint8 (0, 12, 3)"),
        (np.zeros(8, np.uint8), "uint8 (8,)"),
        ([[0, 1]], "list"),
    ],
)
def test_other_values_are_refused_with_what_was_expected_and_found(image, found):
    message = rf"expected .*array of shape \(H, W, 3\).*found {re.escape(found)}"
    with pytest.raises(ImageError, match=message):
        rgb_pixels(image)


def test_bytes_that_are_no_image_are_refused():
    for data in (b"", b"no image", encoded(colours())[:40]):
        with pytest.raises(ImageError, match="reading the bytes of an image"):
            rgb_pixels(data)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"missing\.png: No such file"):
        rgb_pixels(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.png: not an image"):
        rgb_pixels(tmp_path / "text.png")
