import hashlib
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lens_cache.errors import ImageError
from lens_cache.images.decode import content_id, image_size, read_image
from tests.support.pictures import colours, encoded, rotated


def test_content_id_is_the_first_half_of_sha256():
    assert content_id(b"abc") == hashlib.sha256(b"abc").hexdigest()[:32]
    assert content_id(b"abc") != content_id(b"abd")


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_rgb_is_read_unchanged(format):
    pixels = colours()
    data = encoded(pixels, format)
    assert image_size(data) == (12, 8)
    np.testing.assert_array_equal(read_image(data), pixels)


def _turned(pixels, orientation):
    """Return the image as a viewer shows it, by the EXIF standard."""
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }.get(orientation, pixels)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation, format):
    pixels = colours()
    data = rotated(pixels, orientation, format)
    expected = _turned(pixels, orientation)
    np.testing.assert_array_equal(read_image(data), expected)
    assert image_size(data) == expected.shape[1::-1]


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_invalid_orientation_is_ignored(orientation):
    pixels = colours()
    np.testing.assert_array_equal(read_image(rotated(pixels, orientation)), pixels)


def test_jpeg_orientation_gives_size_and_pixels():
    flat = np.zeros((40, 20, 3), dtype=np.uint8)
    flat[:20] = 255
    data = rotated(flat, 6, "JPEG")
    assert image_size(data) == (40, 20)
    picture = read_image(data)
    assert picture[:, 25:].min() > 240
    assert picture[:, :15].max() < 15


def test_a_broken_exif_block_is_ignored():
    data = encoded(colours(), "JPEG", exif=b"Exif\0\0garbage")
    assert image_size(data) == (12, 8)
    assert read_image(data).shape == (8, 12, 3)


def test_cmyk():
    data = encoded(Image.new("CMYK", (4, 3), (0, 255, 255, 0)), "TIFF")
    np.testing.assert_array_equal(read_image(data), np.full((3, 4, 3), (255, 0, 0)))


def test_cmyk_jpeg_is_not_inverted():
    data = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")
    assert read_image(data).min() > 250


@pytest.mark.parametrize("mode", ["L", "1"])
def test_gray_and_bilevel(mode):
    gray = Image.fromarray(np.where(colours()[..., 0] > 127, 255, 0).astype(np.uint8)).convert(mode)
    expected = np.repeat(np.asarray(gray.convert("L"))[..., None], 3, axis=2)
    np.testing.assert_array_equal(read_image(encoded(gray)), expected)


def test_palette():
    picture = Image.fromarray(colours()).quantize(16)
    np.testing.assert_array_equal(read_image(encoded(picture)), np.asarray(picture.convert("RGB")))


def test_transparent_parts_become_white():
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 3] = (0, 255, 51)
    expected = [[[255] * 3, [0] * 3, [204] * 3]]
    np.testing.assert_array_equal(read_image(encoded(pixels)), expected)


def test_a_transparent_colour_of_a_palette_becomes_white():
    picture = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("L").convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    data = encoded(picture, transparency=0)
    np.testing.assert_array_equal(read_image(data), [[[255] * 3, [40, 50, 60]]])


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_not_clipped(format):
    deep = np.array([[0, 256, 257, 32768, 65535]], dtype=np.uint16)
    expected = np.floor(deep / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(read_image(encoded(deep, format))[..., 0], expected)


def test_32_bit_integers_beyond_16_bit_use_their_own_range():
    deep = np.array([[-100000, 0, 100000]], dtype=np.int32)
    np.testing.assert_array_equal(read_image(encoded(deep, "TIFF"))[0, :, 1], [0, 128, 255])


def test_floats():
    unit = np.array([[0, 0.5, 1]], dtype=np.float32)
    np.testing.assert_array_equal(read_image(encoded(unit, "TIFF"))[0, :, 2], [0, 128, 255])
    wide = np.array([[-2, 0, np.nan, 6]], dtype=np.float32)
    np.testing.assert_array_equal(read_image(encoded(wide, "TIFF"))[0, :, 2], [0, 64, 64, 255])


def test_constant_floats_do_not_divide_by_zero():
    flat = np.full((2, 2), 7, dtype=np.float32)
    np.testing.assert_array_equal(read_image(encoded(flat, "TIFF")), np.zeros((2, 2, 3)))


def test_animation_is_its_first_frame():
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(data), np.asarray(frames[0]))


@pytest.mark.parametrize("size", [(1, 1), (20000, 100), (1, 500)])
def test_extreme_sizes(size):
    data = encoded(Image.new("RGB", size, "green"))
    assert image_size(data) == size
    assert read_image(data).shape == (size[1], size[0], 3)


def test_size_of_a_path_is_the_size_of_its_bytes(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(rotated(colours(), 6))
    assert image_size(path) == image_size(path.read_bytes()) == (8, 12)


def test_no_bytes():
    for function in (image_size, read_image):
        with pytest.raises(ImageError, match=r"^the file is empty$"):
            function(b"")


def test_unknown_format():
    for function in (image_size, read_image):
        with pytest.raises(ImageError, match=r"^not an image of a known format"):
            function(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "GIF"])
def test_truncated(format):
    data = encoded(colours(64, 64), format)
    messages = set()
    for _ in range(2):
        with pytest.raises(ImageError) as caught:
            read_image(data[: len(data) * 2 // 3])
        messages.add(str(caught.value))
    (message,) = messages
    assert len(message) < 160
    assert "0x" not in message
    assert "\n" not in message


@pytest.mark.parametrize("side", [14000, 40000])
def test_decompression_bomb(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", b""), (b"IEND", b""))
    )
    for function in (image_size, read_image):
        with pytest.raises(ImageError, match=r"^more than 178956970 pixels"):
            function(b"\x89PNG\r\n\x1a\n" + chunks)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255), cut=st.integers(0, 400))
def test_damage_gives_pixels_or_one_short_line(position, value, cut):
    data = bytearray(encoded(colours(), "JPEG"))
    data[position % len(data)] = value
    try:
        pixels, message = read_image(bytes(data[: len(data) - cut])), ""
    except ImageError as error:
        pixels, message = np.zeros((1, 1, 3), dtype=np.uint8), str(error)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert re.fullmatch(r"[^\n]{0,160}", message)
    assert " at 0x" not in message
