"""Is there room for a store?"""

from __future__ import annotations

import shutil
from pathlib import Path

from lens_cache.errors import StoreError
from lens_cache.store.io.remote import is_remote

# Room that must stay free on the disk in addition to the features.
_MARGIN_BYTES = 64 << 20


def free_bytes(root: Path) -> int | None:
    """Return the free bytes of a store's disk; None behind a URL, where it is not known."""
    if is_remote(root):
        return None
    folders = [root, *root.absolute().parents]
    return shutil.disk_usage(next(folder for folder in folders if folder.exists())).free


def fits(root: Path, needed: int) -> bool | None:
    """Return whether so many bytes fit, with a margin; None where it is not known."""
    free = free_bytes(root)
    return None if free is None else needed + _MARGIN_BYTES <= free


def require_space(root: Path, needed: int) -> None:
    """Refuse to write what the disk cannot hold.

    Raises:
        StoreError: If fewer bytes are free than needed, with a margin.
    """
    if fits(root, needed) is False:
        free = free_bytes(root) or 0
        raise StoreError(
            f"writing to {root}: {_megabytes(needed + _MARGIN_BYTES)} are needed, "
            f"{_megabytes(_MARGIN_BYTES)} of them as a margin, and {_megabytes(free)} are free; "
            "make room or choose another disk (`extract --force` starts anyway)"
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
