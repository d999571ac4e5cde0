"""Reading image files: identity, size and pixels, from bytes.

An image is decoded as a viewer shows it: EXIF orientation is applied, an animation is reduced to
its first frame, transparent parts become white (a drawing in black ink stays visible).

The messages of ``ImageError`` are stored as reasons in a plan's quarantine and so are part of its
digest: with a changed message, a plan that has such an image would no longer match its store.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_cache.errors import ImageError, one_line

# Only formats whose decoder runs in this process; Pillow starts Ghostscript for others.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "MPO")
MAX_PIXELS = 178_956_970  # Pillow's limit for a decompression bomb: 0.5 GB as RGB.

_ORIENTATION = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def content_id(data: bytes) -> str:
    """Return the identity of an image: the first 32 hexadecimal digits of its file's SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


def image_size(source: bytes | Path) -> tuple[int, int]:
    """Return (width, height) after EXIF orientation, from the header alone.

    Args:
        source: The file's content or its path.

    Raises:
        ImageError: If the header cannot be read.
        OSError: If the file does not exist.
    """
    stream: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream, _open(stream) as image:
        width, height = image.size
        return (height, width) if _orientation(image) >= 5 else (width, height)


def read_image(data: bytes) -> NDArray[np.uint8]:
    """Decode an image file of any mode to RGB, shape (H, W, 3), uint8, EXIF orientation applied.

    Deep grayscale is scaled, not clipped: 16-bit integers by their full range, floats in [0, 1] by
    255, anything else by the image's own minimum and maximum.

    Raises:
        ImageError: If the file is empty, of an unknown format, truncated or too large.
    """
    with _open(io.BytesIO(data)) as image:
        return to_rgb(image)


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Convert a PIL image as ``read_image`` does, shape (H, W, 3), uint8.

    Raises:
        ImageError: If its file is truncated or broken.
    """
    transpose = _TRANSPOSES.get(_orientation(image))
    try:
        image.load()
        rgb = _to_rgb(image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise exceptions of any type on broken data
        raise ImageError(f"cannot be decoded: {_stable(error)}") from None
    if transpose is not None:
        rgb = rgb.transpose(transpose)
    return np.array(rgb, dtype=np.uint8)


def _open(stream: BinaryIO) -> Image.Image:
    """Open an image of a known format and allowed size; decodes only the header."""
    Image.init()
    try:
        image = Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS} pixels") from None
    except Exception:  # Pillow's messages contain the address of an object here
        empty = stream.seek(0, io.SEEK_END) == 0
        raise ImageError(
            "the file is empty" if empty else f"not an image of a known format ({_known()})"
        ) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"more than {MAX_PIXELS} pixels: {width} x {height}")
    if not (width and height):
        raise ImageError(f"has no pixels: {width} x {height}")
    return image


def _known() -> str:
    return ", ".join(FORMATS[:6])


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if there is none or it is invalid.

    Does not call PNG's own ``getexif``, which decodes the whole file to look for a late block.
    """
    if image.format == "TIFF":  # Pillow has already applied it
        return 1
    try:
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # a broken EXIF block does not make the image unreadable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image of any mode to RGB."""
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        foreground = image.convert("RGBA")
        background = Image.new("RGBA", foreground.size, "white")
        return Image.alpha_composite(background, foreground).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(pixels: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Scale deep grayscale of shape (H, W) to 0..255; values that are not finite become 0."""
    values = np.nan_to_num(pixels.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low = float(values.min())
    high = float(values.max())
    if np.issubdtype(pixels.dtype, np.floating) and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif np.issubdtype(pixels.dtype, np.integer) and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
    return np.floor(scaled + 0.5).astype(np.uint8)


def _stable(error: Exception) -> str:
    """Return an error's message, short and without addresses of objects: the same in every run."""
    return re.sub(r"<[^<>]* at 0x[0-9A-Fa-f]+>", "the file", one_line(error, 120))
