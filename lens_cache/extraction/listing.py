"""The files that a plan was made of: what lists the dataset, and the folders of its masks.

A plan is made once. Without this, a line that is added to the data afterwards, or a mask that is
drawn again, would be ignored. Of folders of masks only names and sizes are compared: there may be
a hundred thousand files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lens_cache.datasets.source import DataSource
from lens_cache.errors import StoreMismatchError
from lens_cache.store.folder import StoreFolder
from lens_cache.store.io.files import crc32c, crc32c_of_file
from lens_cache.store.paths import PLAN_FOLDER

# The key of a plan's settings under which the listing is.
LISTING = "listing"
Listing = dict[str, list[int]]
# Larger files are tables with the images in them; reading them at every start would take minutes.
_MAX_READ_BYTES = 1 << 30


def listing(source: DataSource) -> Listing:
    """Return what a plan is made of, by path in the root.

    Files that list the dataset have their size and CRC-32C; larger than 1 GiB, their size alone.
    Folders that do so have the number of their subfolders and a CRC-32C of the names.
    Folders of masks, as ``folder/*.png``, have the number of these files, their bytes, and a
    CRC-32C of names and sizes.
    """
    root = source.config.root
    assert root is not None  # opening the dataset checked it
    dataset = source.open()
    names = dict.fromkeys(path.as_posix() for path in dataset.listing)
    files = {name: _stamp(root / name) for name in names if (root / name).exists()}
    folders = sorted({f"{mask.parent.as_posix()}/*{mask.suffix}" for mask in dataset.mask_files})
    return files | {name: _stamp_folder(root, name) for name in folders}


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
    found = [text for name, stamp in planned.items() if (text := _change(root, name, stamp))]
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


def _change(root: Path, name: str, planned: Sequence[int]) -> str:
    path = root / name
    if "/*" in name:
        now = _stamp_folder(root, name)
        counts = f"{now[0]} files of {now[1]} bytes, {planned[0]} of {planned[1]} were planned"
        return f"the masks {path} have changed: {counts}" if now != list(planned) else ""
    if not path.exists():
        return f"{path} is missing"
    if path.is_dir():
        return f"{path} has other folders" if _stamp(path) != list(planned) else ""
    if path.stat().st_size != planned[0]:
        return f"{path} has {path.stat().st_size} bytes, {planned[0]} were planned"
    return f"the content of {path} has changed" if _stamp(path) != list(planned) else ""


def _stamp_folder(root: Path, pattern: str) -> list[int]:
    """Return number, bytes and CRC-32C of names and sizes of the files ``folder/*suffix``."""
    folder, _, suffix = pattern.rpartition("/*")
    if not (root / folder).is_dir():
        return [0, 0, 0]
    with os.scandir(root / folder) as entries:
        sizes = {
            entry.name: entry.stat().st_size
            for entry in entries
            if entry.name.endswith(suffix) and entry.is_file()
        }
    text = "".join(f"{name} {size}\n" for name, size in sorted(sizes.items()))
    return [len(sizes), sum(sizes.values()), crc32c(os.fsencode(text))]


def _stamp(path: Path) -> list[int]:
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
        return [len(names), crc32c(os.fsencode("\n".join(names)))]
    size = path.stat().st_size
    if size > _MAX_READ_BYTES:
        return [size]
    crc, size = crc32c_of_file(path)
    return [size, crc]
