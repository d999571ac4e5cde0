"""Reading the images of a plan: from image files, or from rows of tables.

A path in the plan is that of an image file or ``FILE.parquet#ROW.COLUMN`` (or ``.arrow``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from lens_cache.errors import DatasetError, ImageError
from lens_cache.images.tables import table_file

_ROW = re.compile(r"(.+\.(?:parquet|arrow))#(\d+)\.(.+)", re.DOTALL)


T = TypeVar("T")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
# Seconds between attempts to read a file of a storage that does not answer.
WAITS = (0.1, 0.4, 1.0)
# Errors that another attempt does not change, where nothing says that the file ever existed.
ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


def patiently(
    read: Callable[[], T],
    *,
    final: tuple[type[OSError], ...] = (),
    waits: Sequence[float] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Call a function again after an OSError: network storage fails for moments.

    Args:
        read: The function.
        final: Errors that are raised at once.
        waits: Seconds between attempts; ``WAITS`` by default.
        sleep: Waits.

    Raises:
        OSError: The last one, after ``len(waits) + 1`` attempts.
    """
    for wait in WAITS if waits is None else waits:
        try:
            return read()
        except final:
            raise
        except OSError:
            sleep(wait)
    return read()


def files_in(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Return the names of the files of a folder with some suffixes, sorted; not those with a dot.

    Args:
        folder: The folder.
        suffixes: Suffixes in lower case, e.g. ``IMAGE_SUFFIXES``.
    """
    return sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and path.is_file() and not path.name.startswith(".")
    )


def row_path(file: PurePosixPath, row: int, column: str) -> PurePosixPath:
    """Return the path of an image in a row of a table."""
    return PurePosixPath(f"{file}#{row}.{column}")


def read_image_file(root: Path, path: PurePosixPath) -> bytes:
    """Return the encoded content of an image of the plan.

    Args:
        root: Folder of the dataset.
        path: The image's path in the plan.

    Raises:
        OSError: If the file cannot be read.
        ImageError: If the table cannot be read or has no image at this row and column.
    """
    place = _ROW.fullmatch(path.as_posix())
    if place is None:
        return (root / path).read_bytes()
    file, row, column = place.groups()
    try:
        value = table_file(root / file).value(int(row), column).as_py()
    except DatasetError as error:
        raise ImageError(str(error)) from None
    data = stored_bytes(value)
    if data is None:
        raise ImageError(f"row {row} of {file} has no picture in its column {column}")
    return data


def stored_bytes(value: Any) -> bytes | None:
    """Return the image file in a value of a table: bytes, or {"bytes": ..., "path": ...}.

    None if the value is neither.
    """
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None
