"""SHA-256 of large files, remembered between commands.

Weights of 16 GB take longer to hash than an image to segment. So the digest of a large file is kept
in ``$XDG_CACHE_HOME/lens-cache/digests`` (``~/.cache`` by default), one small file for each path,
and used again as long as nothing about the file has changed: size, inode, times of the last change
of content and of metadata. The last cannot be set by programs that copy the time of another file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

# Smaller files are hashed again each time.
_LARGE = 1 << 26
# A file that was changed so shortly ago may be changed again without another time: clocks of file
# systems are coarse.
_SETTLED_SECONDS = 10.0


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        state = _state(os.fstat(file.fileno()))
        large = state["size"] >= _LARGE
        known = _load(path) if large else None
        if known is not None and known.get("state") == state:
            return str(known["sha256"])
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        # Of the same content from the first byte to the last.
        if large and _state(os.fstat(file.fileno())) == state and _settled(state):
            _save(path, {"path": str(path.resolve()), "state": state, "sha256": digest})
    return digest


def _state(found: os.stat_result) -> dict[str, int]:
    return {
        "size": found.st_size,
        "inode": found.st_ino,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
    }


def _settled(state: dict[str, int]) -> bool:
    newest = max(state["mtime_ns"], state["ctime_ns"]) / 1e9
    return time.time() - newest > _SETTLED_SECONDS


def _place(path: Path) -> Path:
    """Return where the digest of a file is kept."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
    return Path(folder, "lens-cache", "digests", f"{name}.json")


def _load(path: Path) -> dict[str, object] | None:
    """Return what is kept of a file; None if there is nothing or it cannot be read."""
    try:
        kept = json.loads(_place(path).read_bytes())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: there is no home
        return None
    return kept if isinstance(kept, dict) and isinstance(kept.get("sha256"), str) else None


def _save(path: Path, kept: dict[str, object]) -> None:
    """Keep a digest, whole or not at all; nothing happens where nothing can be written."""
    with contextlib.suppress(OSError, RuntimeError):
        place = _place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=place.parent, delete=False) as file:
            json.dump(kept, file)
        Path(file.name).replace(place)
