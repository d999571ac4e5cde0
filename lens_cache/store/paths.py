"""The names of the files and folders of a store, relative to its root."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from lens_cache.errors import StoreError
from lens_cache.store.io.remote import is_remote

MANIFEST_FILE = "manifest.json"
PLAN_FOLDER = "plan"
# The settings that a plan was made with, beside its tables; written last.
PLAN_SETTINGS = "settings.json"
# What the plan skipped, with the reasons.
QUARANTINE_TABLE = f"{PLAN_FOLDER}/quarantine.parquet"
QUESTIONS_FILE = "hidden_states/questions.parquet"
FROZEN_FOLDER = "frozen"
COMMITS_FOLDER = "commits"
QUARANTINE_FOLDER = "quarantine"
# One tar per shard, in the format webdataset.
SAMPLES_FOLDER = "samples"
RUNS_FOLDER = "runs"
# A copy of the manifest. Without one, nothing else in a store tells what its bytes mean.
SPARE_MANIFEST = f"{RUNS_FOLDER}/{MANIFEST_FILE}"


def is_inside(path: str) -> bool:
    """Return whether a path that a record names is one of a file inside the store."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\0" not in path


def refuse_run(root: Path, doing: str) -> None:
    """Refuse the folder of a training run, which has a manifest too.

    Raises:
        StoreError: If it is one; ``doing`` is the start of the message.
    """
    if is_remote(root):  # a run is a local folder
        return
    if (root / "checkpoints").exists() and not (root / PLAN_FOLDER).exists():
        raise StoreError(
            f"{doing} {root}: expected a store, found the folder of a training run; give the store "
            "that it was trained from"
        )
