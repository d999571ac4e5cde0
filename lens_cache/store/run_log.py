"""The records of one extraction: the only part of a store that has times in it."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lens_cache.store.io.files import append_line, new_folder
from lens_cache.store.paths import RUNS_FOLDER

_LAST = "run.json"
_SHARDS = "shards.jsonl"


class RunLog:
    """A new folder ``runs/STAMP-RANDOM`` of a store."""

    def __init__(self, root: Path, write: Callable[[Path], None]) -> None:
        """Create the folder.

        Args:
            root: The store.
            write: Writes the records of the start into a local folder; ``run.json`` among them.
        """
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
        self._folder = root / RUNS_FOLDER / f"{stamp}-{uuid.uuid4().hex[:8]}"
        with new_folder(root, self._folder, last=_LAST) as scratch:
            write(scratch)

    def append(self, report: Mapping[str, Any]) -> None:
        """Add the report of a shard as a line of JSON."""
        append_line(self._folder / _SHARDS, json.dumps(report))


def shard_reports(root: Path) -> list[dict[str, Any]]:
    """Return the reports of the shards of all extractions of a store; none if it was converted."""
    return [
        json.loads(line)
        for path in sorted((root / RUNS_FOLDER).glob(f"*/{_SHARDS}"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
