"""Where a plan finds its pictures: in files, or in rows of tables.

A path of the plan is that of an image file, or ``FILE.parquet#ROW.COLUMN`` (or ``.arrow``).
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from lens_cache.errors import DatasetError, ImageError
from lens_cache.images.tables import table_file

_ROW = re.compile(r"(.+\.(?:parquet|arrow))#(\d+)\.(.+)", re.DOTALL)


def row_path(file: PurePosixPath, row: int, column: str) -> PurePosixPath:
    """Return the path of a picture that stands in a row of a table."""
    return PurePosixPath(f"{file}#{row}.{column}")


def read_picture_file(root: Path, path: PurePosixPath) -> bytes:
    """Return the content of an image file of the plan.

    Args:
        root: Folder of the dataset.
        path: Path as it stands in the plan.

    Raises:
        OSError: If the file cannot be read.
        ImageError: If a table cannot be read, or has no picture there.
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
    """Return the file that a value of a table holds: bytes, or {"bytes": ..., "path": ...}."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data if isinstance(data, bytes) else None
