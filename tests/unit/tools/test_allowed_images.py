"""Images of callers that are not trusted."""

import base64
import os

import numpy as np
import pytest

from lens_cache.errors import ConfigError, ImageError
from lens_cache.tools.allowed_images import AllowedImages
from tests.support.pictures import colours, encoded

PICTURE = colours(9, 7)


@pytest.fixture
def root(tmp_path):
    """A folder with pictures, beside a file that is secret."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "a.png").write_bytes(encoded(PICTURE))
    (folder / "text.png").write_text("hello")
    (tmp_path / "secret.png").write_bytes(encoded(PICTURE))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "pictures-too").mkdir()
    (tmp_path / "pictures-too" / "a.png").write_bytes(encoded(PICTURE))
    return folder


def test_a_file_below_the_folder_is_read(root):
    images = AllowedImages(root)
    for name in ("below/a.png", "./below/../below/a.png", str(root / "below/a.png")):
        assert np.array_equal(images.file(name), PICTURE)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "link.png",
        "/etc/passwd",
        "/etc/no-such-file",
        "../pictures-too/a.png",
        "..",
    ],
)
def test_a_file_elsewhere_is_refused_whether_it_exists_or_not(root, name):
    with pytest.raises(
        ConfigError, match=r'^reading the image "\S+": outside of the allowed folder$'
    ):
        AllowedImages(root).file(name)


@pytest.mark.parametrize(
    "name",
    ["http://127.0.0.1/a.png", "file:///etc/passwd", "s3://bucket/a.png", "data:image/png;base64,"],
)
def test_a_url_is_refused_with_the_reason(root, name):
    with pytest.raises(ConfigError, match="images are not fetched from a URL"):
        AllowedImages(root).file(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.png", "no such file"),
        ("below", "no such file"),
        ("", "no such file"),
        ("a\0b", "no such path"),
        ("x" * 5000, "(no such|File name too long)"),
        ("text.png", "not an image of a known format"),
    ],
)
def test_what_is_no_image_is_refused_in_one_short_line(root, name, reason):
    with pytest.raises(ImageError, match=reason) as found:
        AllowedImages(root).file(name)
    assert len(str(found.value)) < 300
    assert str(found.value).isprintable()
    assert str(found.value).startswith('reading the image "')


def test_a_named_pipe_is_not_opened(root):
    os.mkfifo(root / "pipe.png")
    with pytest.raises(ImageError, match="no such file"):
        AllowedImages(root).file("pipe.png")


def test_no_file_is_read_without_a_folder(root):
    with pytest.raises(ConfigError, match="no folder of images was allowed"):
        AllowedImages(None).file(str(root / "below/a.png"))
    with pytest.raises(ConfigError, match="missing: no such folder"):
        AllowedImages(root / "missing")


def test_base64_is_read_with_and_without_its_type():
    images = AllowedImages(None)
    text = base64.b64encode(encoded(PICTURE)).decode()
    for given in (text, f"data:image/png;base64,{text}", f"{text[:40]}\n{text[40:]}\n"):
        assert np.array_equal(images.base64(given), PICTURE)
    assert images.base64(base64.b64encode(encoded(PICTURE, "JPEG")).decode()).shape == (7, 9, 3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected a PNG or JPEG file"),
        ("@@@@", "expected base64"),
        ("abc", "expected base64"),
        ("é", "expected base64"),
        ("data:image/png,abcd", "a data URL with base64"),
        (base64.b64encode(encoded(PICTURE, "TIFF")).decode(), "expected a PNG or JPEG file"),
        (base64.b64encode(encoded(PICTURE)[:60]).decode(), "reading"),
    ],
)
def test_base64_of_anything_else_is_refused(text, reason):
    with pytest.raises(ImageError, match=reason):
        AllowedImages(None).base64(text)


def test_large_images_are_refused(root):
    text = base64.b64encode(encoded(PICTURE)).decode()
    with pytest.raises(ImageError, match="at most 62 pixels, found 9 x 7"):
        AllowedImages(root, max_pixels=62).file("below/a.png")
    for read in (lambda images: images.file("below/a.png"), lambda images: images.base64(text)):
        with pytest.raises(ImageError, match="at most 50 bytes"):
            read(AllowedImages(root, max_bytes=50))
