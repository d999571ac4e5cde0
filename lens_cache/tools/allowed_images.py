"""Images that a model or a client names: files below one folder, or base64; never a URL."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lens_cache.errors import ConfigError, ImageError, one_line, quoted
from lens_cache.images.decode import image_size
from lens_cache.images.inputs import rgb_pixels

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 50_000_000
# How files of the two formats begin that clients send as base64.
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


class AllowedImages:
    """Reads images for callers that are not trusted.

    Args:
        root: Only image files below this folder are read; no file at all if None.
        max_bytes: Most bytes of an image file.
        max_pixels: Most pixels of an image.

    Raises:
        ConfigError: If ``root`` is no folder.
    """

    def __init__(
        self,
        root: str | Path | None,
        *,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self._root = None if root is None else Path(root).resolve()
        if self._root is not None and not self._root.is_dir():
            raise ConfigError(f"the folder of images {root}: no such folder")
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels

    def file(self, name: str) -> NDArray[np.uint8]:
        """Read an image file.

        Args:
            name: Path of the file, absolute or from the allowed folder on. Links are followed
                before the path is checked.

        Returns:
            RGB, uint8, shape (H, W, 3).

        Raises:
            ConfigError: If it is a URL, or is not below the allowed folder.
            ImageError: If there is no such file, or it is no image, or it is too large.
        """
        shown = quoted(name)
        if "://" in name or name.lower().startswith("data:"):
            raise ConfigError(
                f"reading the image {shown}: expected the path of a file; images are not fetched "
                "from a URL"
            )
        if self._root is None:
            raise ConfigError(f"reading the image {shown}: no folder of images was allowed")
        try:
            path = (self._root / name).resolve()
        except (OSError, RuntimeError, ValueError):  # a loop of links, a zero byte
            raise ImageError(f"reading the image {shown}: no such path") from None
        # The same answer for files that exist and files that do not: it tells nothing about them.
        if not path.is_relative_to(self._root):
            raise ConfigError(f"reading the image {shown}: outside of the allowed folder")
        try:
            # Before opening: opening a named pipe would wait.
            if not path.is_file():
                raise ImageError(f"reading the image {shown}: no such file")
            with path.open("rb") as file:
                data = file.read(self._max_bytes + 1)
        except OSError as error:
            raise ImageError(f"reading the image {shown}: {error.strerror}") from None
        return self._decode(data, f"the image {shown}")

    def base64(self, text: str) -> NDArray[np.uint8]:
        """Decode a PNG or JPEG file in base64, with or without ``data:image/png;base64,``.

        Returns:
            RGB, uint8, shape (H, W, 3).

        Raises:
            ImageError: If it is not base64, neither PNG nor JPEG, broken, or too large.
        """
        head, comma, rest = text.partition(",")
        if comma and not (head.lower().startswith("data:") and head.lower().endswith(";base64")):
            raise ImageError("reading an image: expected base64, or a data URL with base64")
        encoded = rest if comma else text
        if len(encoded) > self._max_bytes * 4 // 3 + 4:
            raise ImageError(f"reading an image: expected at most {self._max_bytes} bytes")
        try:
            data = base64.b64decode("".join(encoded.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ImageError("reading an image: expected base64, found something else") from None
        if not data.startswith(_SIGNATURES):
            raise ImageError("reading an image in base64: expected a PNG or JPEG file")
        return self._decode(data, "an image in base64")

    def _decode(self, data: bytes, what: str) -> NDArray[np.uint8]:
        if len(data) > self._max_bytes:
            raise ImageError(f"reading {what}: expected at most {self._max_bytes} bytes")
        try:
            width, height = image_size(data)
        except ImageError as error:
            raise ImageError(f"reading {what}: {one_line(error)}") from None
        if width * height > self._max_pixels:
            raise ImageError(
                f"reading {what}: expected at most {self._max_pixels} pixels, found "
                f"{width} x {height}"
            )
        return rgb_pixels(data)
