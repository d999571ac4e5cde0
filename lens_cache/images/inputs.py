"""Images in any form a caller may have, as RGB pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_cache.errors import ImageError, one_line
from lens_cache.images.decode import read_image, to_rgb

ImageInput = str | Path | bytes | Image.Image | NDArray[np.generic]


def rgb_pixels(image: ImageInput) -> NDArray[np.uint8]:
    """Return an image as RGB pixels, shape (H, W, 3), uint8.

    Args:
        image: One of

            * the path of an image file, or its bytes; EXIF orientation is applied;
            * a PIL image of any mode; EXIF orientation is applied, transparency is put on white;
            * an array: RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W) or (H, W, 1), as uint8, as
              bool, or as floats from 0 to 1.

    Raises:
        ImageError: If the file cannot be read, or the image is none of these.
    """
    if isinstance(image, str | Path):
        return _read_file(Path(image))
    if isinstance(image, bytes | bytearray):
        try:
            return read_image(bytes(image))
        except ImageError as error:
            raise ImageError(f"reading the bytes of an image: {one_line(error)}") from None
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image)
        except ImageError as error:
            raise ImageError(f"reading a PIL image: {one_line(error)}") from None
    return _from_array(image)


def _read_file(path: Path) -> NDArray[np.uint8]:
    try:
        return read_image(path.read_bytes())
    except OSError as error:
        raise ImageError(f"reading the image {path}: {error.strerror}") from None
    except ImageError as error:
        raise ImageError(f"reading the image {path}: {one_line(error)}") from None


def _from_array(image: Any) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray):
        raise ImageError(
            "reading an image: expected a path, bytes, a PIL image or an array of shape (H, W, 3), "
            f"found {type(image).__name__}"
        )
    grey = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
    colour = image.ndim == 3 and image.shape[2] in (3, 4)
    pixels = _to_uint8(image)
    if pixels is None or not (grey or colour) or not image.size:
        raise ImageError(
            "reading an image: expected an array of shape (H, W, 3), (H, W, 4) or (H, W), uint8 or "
            f"floats from 0 to 1, found {image.dtype} {image.shape}{_range(image)}"
        )
    return to_rgb(Image.fromarray(pixels.reshape(image.shape[:2]) if grey else pixels))


def _to_uint8(image: NDArray[Any]) -> NDArray[np.uint8] | None:
    """Return an array as bytes; None if its type or its values are not those of an image."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.bool_:
        return image.astype(np.uint8) * 255
    if np.issubdtype(image.dtype, np.floating) and image.size:
        low, high = float(image.min()), float(image.max())
        if low >= 0 and high <= 1:  # false for NaN
            return np.floor(image * 255 + 0.5).astype(np.uint8)
    return None


def _range(image: NDArray[Any]) -> str:
    if not image.size or not np.issubdtype(image.dtype, np.number):
        return ""
    return f" from {image.min()} to {image.max()}"
