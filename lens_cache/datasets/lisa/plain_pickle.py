"""Read a pickle that holds plain data, and run nothing that it asks for.

The ``refs(*).p`` files of the referring sets are pickles, written by Python 2 or 3 and passed from
hand to hand. Theirs are lists, dicts, texts and numbers, which need no name from outside the
pickle. A pickle does harm by asking for names: so the first one ends the reading.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from lens_cache.datasets.json_files import instead
from lens_cache.errors import DatasetError, one_line

# RefCOCO's three are 10 to 40 MB.
MAX_BYTES = 1 << 30


class _RefusedError(pickle.UnpicklingError):
    """A pickle asks for something that is not plain data; the message names it."""


class _PlainUnpickler(pickle.Unpickler):
    """Knows no class and no function: with none to call, no opcode can run code."""

    def find_class(self, module: str, name: str, /) -> Any:
        raise _RefusedError(f"{module}.{name}")


def read_plain_pickle(path: Path) -> Any:
    """Return the lists, tuples, dicts, sets, texts, bytes, numbers, booleans and None of a pickle.

    Texts of Python 2, which are bytes, are read as UTF-8, or as Latin-1 if they are not.

    Raises:
        DatasetError: If the file is missing, too large, no pickle, or asks for anything else.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DatasetError(
                f"reading {path}: {size} bytes, expected at most {MAX_BYTES}; this is not the "
                "refs file of a referring set, get it anew"
            )
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"reading {path}: {error.strerror}") from None
    try:
        return _load(data)
    except _RefusedError as error:
        raise DatasetError(
            f"reading {path}: the pickle asks for {one_line(error, 100)}, expected plain lists, "
            "dicts, texts and numbers; nothing of it was run; get the file from another source"
        ) from None
    except Exception as error:  # broken pickles raise nearly everything
        found = instead(data) or f"not a complete pickle of plain data: {one_line(error, 100)}"
        raise DatasetError(f"reading {path}: {found}; get the file anew") from None


def _load(data: bytes) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except UnicodeDecodeError:
        return _PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()
