"""Read a whole JSON file of a dataset, with a clear error for failed downloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lens_cache.errors import DatasetError, one_line


def read_json(path: Path) -> Any:
    """Read a JSON document.

    Raises:
        DatasetError: If the file cannot be read or is not JSON.
    """
    try:
        data = path.read_bytes()
        return json.loads(data)
    except OSError as error:
        raise DatasetError(f"reading {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        found = failed_download(data) or f"not valid JSON: {one_line(error, 120)}"
        raise DatasetError(f"reading {path}: {found}; download the file again") from None


def read_lists(path: Path, *keys: str) -> dict[str, list[Any]]:
    """Read a JSON object that holds lists under these keys.

    Raises:
        DatasetError: If the file cannot be read, is not JSON, or lacks a list.
    """
    document = read_json(path)
    for key in keys:
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise DatasetError(
                f"reading {path}: expected an object with the lists {', '.join(keys)}; "
                f"{key!r} is missing"
            )
    return document  # type: ignore[no-any-return]


def failed_download(data: bytes) -> str:
    """Return a description of the usual failed downloads; an empty string for other content."""
    if not data:
        return "the file is empty"
    if data.lstrip()[:1] == b"<":
        return "it is a web page, not the file; the download link is wrong or has expired"
    if data.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the file; run `git lfs pull`"
    return ""
