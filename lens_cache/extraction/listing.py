"""The files that list a dataset: their sizes and checksums are kept with a plan.

A plan is made once. Without them, a line that is added to the data afterwards would be ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lens_cache.datasets.source import DataSource
from lens_cache.errors import StoreMismatchError
from lens_cache.store.folder import StoreFolder
from lens_cache.store.io.files import crc32c_of_file
from lens_cache.store.paths import PLAN_FOLDER

# The key of a plan's settings under which the listing is.
LISTING = "listing"
Listing = dict[str, list[int]]
# Larger files are tables with the images in them; reading them at every start would take minutes.
_MAX_READ_BYTES = 1 << 30


def listing(source: DataSource) -> Listing:
    """Return size and CRC-32C of every file that lists the dataset, by its path in the root.

    Files larger than 1 GiB have their size alone.
    """
    root = source.config.root
    assert root is not None  # opening the dataset checked it
    names = dict.fromkeys(path.as_posix() for path in source.open().listing)
    return {name: _stamp(root / name) for name in names if (root / name).is_file()}


def require_same_files(folder: StoreFolder, root: Path | None, *, extracting: bool) -> None:
    """Compare the files of a dataset with those that a store was planned from.

    Plans of versions that did not keep them are not compared; nor is a dataset that is gone.

    Args:
        folder: The store.
        root: The dataset.
        extracting: Whether the store has a manifest, so that its plan must stay.

    Raises:
        StoreMismatchError: If a file is missing or has changed.
    """
    if root is None or not root.is_dir():
        return
    planned = folder.plan_settings().get(LISTING, {})
    found = [text for name, stamp in planned.items() if (text := _change(root / name, stamp))]
    if found:
        cure = (
            "put the data back, or extract into a new store"
            if extracting
            else f"nothing is extracted yet: delete the folder {folder.root / PLAN_FOLDER} and run "
            "the same command again, or put the data back"
        )
        raise StoreMismatchError(
            f"the data of the store {folder.root} is not what was planned: {'; '.join(found)}; "
            f"{cure}"
        )


def _change(path: Path, planned: Sequence[int]) -> str:
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != planned[0]:
        return f"{path} has {path.stat().st_size} bytes, {planned[0]} were planned"
    return f"the content of {path} has changed" if _stamp(path) != list(planned) else ""


def _stamp(path: Path) -> list[int]:
    size = path.stat().st_size
    if size > _MAX_READ_BYTES:
        return [size]
    crc, size = crc32c_of_file(path)
    return [size, crc]
