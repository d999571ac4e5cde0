"""Images in any form a caller may have, as RGB pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_cache.errors import ImageError, one_line
from lens_cache.images.decode import read_image, to_rgb

ImageInput = str | Path | Image.Image | NDArray[np.uint8]


def rgb_pixels(image: ImageInput) -> NDArray[np.uint8]:
    """Return an image as RGB pixels, shape (H, W, 3), uint8.

    Args:
        image: One of

            * the path of an image file; EXIF orientation is applied;
            * a PIL image of any mode; EXIF orientation is applied, transparency is put on white;
            * a uint8 array: RGB (H, W, 3), RGBA (H, W, 4) or grey (H, W) or (H, W, 1).

    Raises:
        ImageError: If the file cannot be read, or the image is none of these.
    """
    if isinstance(image, str | Path):
        return _read_file(Path(image))
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
            "reading an image: expected a path, a PIL image or a uint8 array of shape (H, W, 3), "
            f"found {type(image).__name__}"
        )
    grey = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
    colour = image.ndim == 3 and image.shape[2] in (3, 4)
    if image.dtype != np.uint8 or not (grey or colour) or not image.size:
        raise ImageError(
            "reading an image: expected a uint8 array of shape (H, W, 3), (H, W, 4) or (H, W), "
            f"found {image.dtype} {image.shape}"
        )
    return to_rgb(Image.fromarray(image.reshape(image.shape[:2]) if grey else image))
