"""Find the tables of a folder, in the layout of the Hub or of ``save_to_disk``.

root/data/train-00000-of-00002-0123456789abcdef.parquet     the layout of the Hub
root/train.parquet, root/val/anything.parquet
root/state.json, root/data-00000-of-00001.arrow             a Dataset saved to disk
root/dataset_dict.json, root/train/state.json, ...          a DatasetDict saved to disk
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from lens_cache.errors import DatasetError, one_line
from lens_cache.images.tables import SUFFIXES

_NUMBERED = re.compile(r"(?P<stem>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")
_SPLIT = re.compile(r"(train|val|dev|test|eval)\w*", re.IGNORECASE)
_NO_SPLIT = ("data", "part", "chunk")


def find_tables(root: Path) -> list[tuple[PurePosixPath, str]]:
    """Return the tables below a folder, relative to it, each with the split given by its path.

    Raises:
        DatasetError: If there are none, or a ``state.json`` is not valid.
    """
    saved = [path.parent for path in sorted(root.rglob("state.json"))]
    found = [file for folder in saved for file in _saved_files(folder)]
    found += [
        (path, _split_of(path.relative_to(root)))
        for path in sorted(root.rglob("*"))
        if path.suffix in SUFFIXES
        and path.parent not in saved
        and not path.name.startswith("cache-")  # written by ``Dataset.map``
    ]
    if not found:
        raise DatasetError(
            f"opening the huggingface dataset {root}: expected *.parquet files, or a folder "
            "written by save_to_disk; found none (download one with `hf download NAME --repo-type "
            "dataset --local-dir FOLDER`)"
        )
    return [(PurePosixPath(path.relative_to(root).as_posix()), split) for path, split in found]


def _saved_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a saved Dataset, in the order of its rows, each with its split."""
    path = folder / "state.json"
    try:
        state = json.loads(path.read_bytes())
        names = [str(entry["filename"]) for entry in state["_data_files"]]
        shuffled = bool(state.get("_indices_data_files"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"reading {path}: expected a file written by save_to_disk: {type(error).__name__} "
            f"{one_line(error, 80)}; save the dataset again"
        ) from None
    if shuffled:
        raise DatasetError(
            f"reading {path}: its rows are selected by a list of indices, which is not supported; "
            "call flatten_indices() and save the dataset again"
        )
    split = state.get("_split") or folder.name
    for name in names:
        if Path(name).name != name:
            raise DatasetError(f"reading {path}: the file {name!r} is outside its folder")
        yield folder / name, split if _SPLIT.fullmatch(split) else "train"


def _split_of(path: Path) -> str:
    """Return the split in a file's name, or in its folder's name; ``train`` if there is none.

    In the cache of ``datasets``, the name of the dataset comes first:
    "shapes-test-00000-of-00001.arrow".
    """
    numbered = _NUMBERED.fullmatch(path.stem)
    if numbered is not None and numbered["stem"] not in _NO_SPLIT:
        return numbered["stem"].rpartition("-")[2]
    for name in (path.stem, path.stem.rpartition("-")[2], path.parent.name):
        if _SPLIT.fullmatch(name):
            return name
    return "train"
