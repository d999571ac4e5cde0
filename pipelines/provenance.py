"""Provenance of an artefact: command line, versions, git commit, resolved settings."""

from __future__ import annotations

import datetime
import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from lens_cache.config.load import to_yaml
from lens_cache.store.io.files import replacing

PACKAGES = (
    "lens-cache",
    "torch",
    "torchvision",
    "transformers",
    "segment-anything",
    "ray",
    "zarr",
    "lightning",
    "numpy",
    "pyarrow",
    "pillow",
)


def record_run(folder: Path, config: object) -> None:
    """Write ``run.json`` and the resolved ``config.yaml`` into a folder, creating it."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "argv": sys.argv,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "git": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
    }
    with replacing(folder / "run.json") as file:
        file.write((json.dumps(run, indent=2) + "\n").encode())
    with replacing(folder / "config.yaml") as file:
        file.write(to_yaml(config).encode())


def git_commit() -> str | None:
    """Return the git commit of this package, with ``-dirty`` if tracked files were changed.

    Returns None if it does not run from a checkout.
    """
    here = Path(__file__).parent
    try:
        sha = _git(here, "rev-parse", "HEAD")
        return sha + ("-dirty" if _git(here, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
