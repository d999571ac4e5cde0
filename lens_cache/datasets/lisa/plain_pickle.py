"""Read a pickle of plain data without executing anything in it.

The ``refs(*).p`` files of the referring sets are pickles, written by Python 2 or 3 and distributed
through unofficial mirrors. They contain lists, dicts, strings and numbers, which need no import. A
pickle can only execute code through a class or function that it imports, so the first import ends
the reading with an error.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

from lens_cache.datasets.json_files import failed_download
from lens_cache.errors import DatasetError, one_line

# The files of RefCOCO, RefCOCO+ and RefCOCOg have 10 to 40 MB.
MAX_BYTES = 1 << 30


class _RefusedError(pickle.UnpicklingError):
    """A pickle imports something; the message is its name."""


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every import: without a class or function to call, no opcode can execute code."""

    def find_class(self, module: str, name: str, /) -> Any:
        raise _RefusedError(f"{module}.{name}")


def read_plain_pickle(path: Path) -> Any:
    """Return a pickle of lists, tuples, dicts, sets, strings, bytes, numbers, booleans and None.

    Strings of Python 2, which are bytes, are decoded as UTF-8, or as Latin-1 if that fails.

    Raises:
        DatasetError: If the file is missing, too large, not a pickle, or imports anything.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DatasetError(
                f"reading {path}: {size} bytes, expected at most {MAX_BYTES}; this is not the "
                "refs file of a referring set, download it again"
            )
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"reading {path}: {error.strerror}") from None
    try:
        return _load(data)
    except _RefusedError as error:
        raise DatasetError(
            f"reading {path}: the pickle imports {one_line(error, 100)}, expected only lists, "
            "dicts, strings and numbers; nothing was executed; get the file from another source"
        ) from None
    except Exception as error:  # broken pickles raise many kinds of errors
        found = failed_download(data) or (
            f"not a complete pickle of plain data: {one_line(error, 100)}"
        )
        raise DatasetError(f"reading {path}: {found}; download the file again") from None


def _load(data: bytes) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except UnicodeDecodeError:
        return _PlainUnpickler(io.BytesIO(data), encoding="latin-1").load()
