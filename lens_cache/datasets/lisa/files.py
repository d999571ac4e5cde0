"""Shared by the readers of LISA's sets: file lists and image sizes."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from lens_cache.errors import ImageError
from lens_cache.images.decode import image_size


def stems(folder: Path, suffix: str) -> list[str]:
    """Return the names, without ``suffix``, of the files in a folder, sorted.

    Hidden files are skipped: an archive made on macOS unpacks a "._NAME" next to every file.
    """
    if not folder.is_dir():
        return []
    names = sorted(entry.name for entry in os.scandir(folder))
    return [
        name.removesuffix(suffix)
        for name in names
        if name.endswith(suffix) and not name.startswith(".")
    ]


def image_shape(root: Path, path: PurePosixPath) -> tuple[int, int]:
    """Return (height, width) of an image after EXIF orientation, from its header.

    Raises:
        ValueError: If the file is missing or its header cannot be read.
    """
    try:
        width, height = image_size(root / path)
    except FileNotFoundError:
        raise ValueError(f"its image {path} is missing; unpack the set's images again") from None
    except ImageError as error:
        raise ValueError(f"its image {path}: {error}; unpack it again") from None
    except OSError as error:
        raise ValueError(f"its image {path}: {error.strerror}") from None
    return height, width
