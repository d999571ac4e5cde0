"""Read a whole JSON file of a dataset, or say what lies there in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lens_cache.errors import DatasetError, one_line


def read_lists(path: Path, *keys: str) -> dict[str, list[Any]]:
    """Read a JSON object that holds lists under these keys.

    Raises:
        DatasetError: If the file cannot be read, is not JSON, or lacks a list.
    """
    try:
        data = path.read_bytes()
        document = json.loads(data)
    except OSError as error:
        raise DatasetError(f"reading {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        found = instead(data) or f"not valid JSON: {one_line(error, 120)}"
        raise DatasetError(f"reading {path}: {found}; get the file anew") from None
    for key in keys:
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise DatasetError(
                f"reading {path}: expected an object with the lists {', '.join(keys)}; "
                f"{key!r} is not there"
            )
    return document  # type: ignore[no-any-return]


def instead(data: bytes) -> str:
    """Say what a download left in place of a file, if it is one of the usual things."""
    if not data:
        return "the file is empty"
    if data.lstrip()[:1] == b"<":
        return "a web page in place of the file, so its link has led elsewhere"
    if data.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS in place of the file, which `git lfs pull` gets"
    return ""
