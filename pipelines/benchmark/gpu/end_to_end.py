"""Section ``end to end``: the commands of both phases, a killed extraction among them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lens_cache.errors import LensCacheError
from lens_cache.features.transfer import on_gpu
from lens_cache.store.folder import StoreFolder
from lens_cache.store.layout import GROUPS
from lens_cache.toy.random_checkpoints import LLAVA_FOLDER, SAM_FILE, write_random_checkpoints
from lens_cache.toy.world import write_world
from pipelines.benchmark.gpu.findings import Findings
from pipelines.benchmark.gpu.scale import Scale

_SHARDS = 6
_STEPS = 4
_RECOMPUTED = 4
_POLL = 0.02
_LIMIT = 300.0


@dataclass(frozen=True)
class _Commands:
    """Runs ``lens-cache`` in processes of its own."""

    found: Findings
    folder: Path

    def __call__(self, step: str, *words: str) -> Any:
        """Run a command; add its row, and return its JSON document.

        Raises:
            LensCacheError: If it fails.
        """
        began = time.perf_counter()
        done = subprocess.run(
            _words(*words), cwd=self.folder, capture_output=True, text=True, timeout=_LIMIT
        )
        self.found.row(step=step, seconds=time.perf_counter() - began)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise LensCacheError(f"{step}: exit {done.returncode}: {' / '.join(lines[-5:])}")
        return json.loads(done.stdout) if "--json" in words else None

    def killed(self, *words: str, store: Path) -> int:
        """Start an extraction, and kill it with its workers once a shard is committed.

        Returns:
            Number of commits.

        Raises:
            LensCacheError: If it ended before.
        """
        began = time.perf_counter()
        with (self.folder / "killed.log").open("wb") as log:
            process = subprocess.Popen(
                _words(*words), cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        try:
            while not _commits(store):
                if process.poll() is not None or time.perf_counter() - began > _LIMIT:
                    text = (self.folder / "killed.log").read_text(errors="replace").strip()
                    raise LensCacheError(
                        f"the extraction ended before it could be killed: {text[-300:]}"
                    )
                time.sleep(_POLL)
        finally:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.found.row(step="kill", seconds=time.perf_counter() - began)
        return _commits(store)


def _words(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipelines", *words]


def _commits(store: Path) -> int:
    if not store.exists():
        return 0
    folder = StoreFolder(store)
    return sum(len(folder.committed(group)) for group in GROUPS)


def end_to_end(scale: Scale, device: str, scratch: Path, found: Findings) -> None:
    """Extract, kill and resume, verify, train and evaluate by the commands that users run."""
    run = _Commands(found, scratch)
    began = time.perf_counter()
    sizes = scale.written
    write_random_checkpoints(scratch / "checkpoints", sizes.llava, sizes.sam, device=device)
    val = max(1, scale.records // 8)
    write_world(scratch / "world", {"train": scale.records - val, "val": val})
    found.row(step="write checkpoints and images", seconds=time.perf_counter() - began)
    settings = scratch / "extract.yaml"
    settings.write_text(yaml.safe_dump(_settings(scale, device)))
    one, other = scratch / "one", scratch / "other"

    # Phase 1: undisturbed, and killed and resumed.
    extract = ("-c", str(settings), "--json")
    whole = run("extract", "extract", str(one), *extract)
    found.note(
        f"{sizes.name}: {whole['images']} images in {whole['wall_seconds']:.1f} s with the start "
        f"of the worker; busy {whole['busy_shares']}"
    )
    commits = run.killed("extract", str(other), *extract, store=other)
    run("resume the killed extraction", "extract", str(other), *extract)
    wrong = _differences(one, other)
    if wrong:
        raise LensCacheError(
            f"killed after {commits} commits and resumed: expected the same bytes, found "
            f"{len(wrong)} files that differ: {', '.join(wrong[:3])}"
        )
    found.note(f"killed after {commits} commits and resumed: byte-identical")
    checked = run(
        "verify against the plain models",
        *("verify", str(one), "--recompute", str(_RECOMPUTED), "--json"),
    )
    worst = max(array["relative_error"] for array in checked["recomputed"])
    found.note(f"verify --recompute {_RECOMPUTED}: largest relative error {worst:.1e}")

    # Phase 2: some steps, and an evaluation.
    options = {
        "trainer.max_steps": _STEPS,
        "trainer.validate_every": _STEPS,
        "trainer.devices": 1,
        "trainer.accelerator": "gpu" if on_gpu(device) else "cpu",
        "batch.images": scale.steps[-1][0],
        "batch.accumulate": 1,
        "batch.limit_validation_images": 4,
        "trainer.pictures": 1,
    }
    words = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    run("train", "train", "run", "--store", str(one), *words)
    run("evaluate", "evaluate", "run", "--store", str(one), "--split", "val", "--device", device)


def _settings(scale: Scale, device: str) -> dict[str, Any]:
    return {
        "data": {"kind": "jsonl", "root": "world"},
        "encoders": {
            "root": "checkpoints",
            "llava": {
                "checkpoint": LLAVA_FOLDER,
                "layers": [scale.written.layer],
                "dtype": scale.dtype,
            },
            "sam": {"checkpoint": SAM_FILE, "dtype": scale.dtype},
        },
        "store": {"shard_size": max(1, scale.records // _SHARDS)},
        "workers": {"device": "cuda" if on_gpu(device) else "cpu", "count": 1},
    }


def _differences(one: Path, other: Path) -> list[str]:
    """Return the files in which two stores differ, but for the records of their runs."""
    names = {path.relative_to(root) for root in (one, other) for path in _files(root)}
    return sorted(str(name) for name in names if not _same(one / name, other / name))


def _files(root: Path) -> Sequence[Path]:
    return [
        path
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] != "runs"
    ]


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.read_bytes() == other.read_bytes()
