"""Run a sweep: every row with every seed, each a training run in a process and folder of its own.

OUT/runs/ROW/seed-N/        the run; its result.json, written last, says that it is finished
OUT/runs/ROW/seed-N.yaml    its settings
OUT/runs/ROW/seed-N.log     what it said
OUT/NAME.md, .json, .svg    all of them compared
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lens_cache.config.load import to_yaml
from lens_cache.config.sweep import SweepConfig, row_settings
from lens_cache.config.train import TrainConfig
from lens_cache.errors import ConfigError, TrainingError
from lens_cache.store.manifest import Manifest
from lens_cache.store.store import Store
from pipelines.progress import Reporter
from pipelines.provenance import record_run
from pipelines.sweeps.one_run import RESULT_FILE, Result, settings_file

LAST_LINES = 5


@dataclass(frozen=True)
class Task:
    """One run: a row with a seed, trained into a folder."""

    row: str
    seed: int
    folder: Path
    config: TrainConfig

    @property
    def log(self) -> Path:
        """Where what the run says is kept."""
        return self.folder.parent / f"{self.folder.name}.log"

    def __str__(self) -> str:
        return f"{self.row!r}, seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """A run that ended without a result, with the last lines it said."""

    row: str
    seed: int
    log: str
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.row!r}, seed {self.seed} failed; the end of {self.log}:\n" + "\n".join(
            f"    {line}" for line in self.lines
        )


@dataclass
class Outcome:
    """What a sweep gave: results by row and seed, and the runs that failed."""

    results: dict[str, dict[int, Result]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)


def run_sweep(
    config: SweepConfig,
    store_path: Path,
    out: Path,
    reporter: Reporter,
    *,
    seeds: int,
    steps: int | None = None,
    jobs: int = 1,
) -> Outcome:
    """Do every run that is not finished, and collect the results of all.

    A run that was killed begins anew: one that was resumed would tell of part of its time.

    Args:
        config: The sweep.
        store_path: A complete store with the splits, and the layers of all rows.
        out: The folder of the sweep.
        reporter: Where progress goes.
        seeds: Each row is trained with the seeds 0 to ``seeds - 1``.
        steps: Optimizer steps of every run; the base's if not given.
        jobs: Processes at a time.

    Raises:
        ConfigError: If ``out`` holds runs of other settings or of another store.
        StoreError: If the store is not complete or lacks a split.
        TrainingError: If another sweep is at work in ``out``.
    """
    store = Store(store_path)
    for split in config.splits:
        store.images(split, None)
    tasks = _tasks(config, out, seeds, steps)
    with _held(out) as lock:
        todo = [task for task in tasks if not _finished(task, store)]
        record_run(out, config)
        failures = _run_all(todo, len(tasks), store_path, config.splits, reporter, jobs, lock)
    failed = {(failure.row, failure.seed) for failure in failures}
    outcome = Outcome(failures=failures)
    for task in tasks:
        if (task.row, task.seed) not in failed:
            outcome.results.setdefault(task.row, {})[task.seed] = Result.load(task.folder)
    return outcome


def _tasks(config: SweepConfig, out: Path, seeds: int, steps: int | None) -> list[Task]:
    """List the runs, all rows of a seed before the next seed: an early end still compares."""
    return [
        Task(
            row=row.name,
            seed=seed,
            folder=out / "runs" / row.folder / f"seed-{seed}",
            config=row_settings(config, row, seed=seed, steps=steps),
        )
        for seed in range(seeds)
        for row in config.rows
    ]


def _finished(task: Task, store: Store) -> bool:
    """Tell whether a run is done; refuse one of other settings or another store."""
    if not (task.folder / RESULT_FILE).exists():
        return False
    same_store = _content(Manifest.load(task.folder)) == _content(store.manifest)
    if Result.load(task.folder).config != task.config or not same_store:
        what = "with other settings" if same_store else "from another store"
        raise ConfigError(
            f"sweeping over {task}: {task.folder} holds a finished run {what}; choose "
            "another folder for this sweep, or remove that run"
        )
    return True


def _content(manifest: Manifest) -> tuple[object, ...]:
    """Return what is in a store, wherever it and its sources lie."""
    return manifest.fingerprints, manifest.precision, manifest.plan, manifest.side


def _run_all(
    todo: list[Task],
    total: int,
    store: Path,
    splits: tuple[str, ...],
    reporter: Reporter,
    jobs: int,
    lock: int,
) -> list[Failure]:
    """Do the runs, ``jobs`` at a time; return those that failed."""
    done, failures = total - len(todo), []
    reporter.progress("runs", done, total)
    # The threads only wait for processes.
    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(_run, task, store, splits, lock): task for task in todo}
        try:
            for future in as_completed(running):
                task, failure, done = running[future], future.result(), done + 1
                if failure is None:
                    reporter.message(_tell(task, splits[0]))
                else:
                    reporter.message(str(failure))
                    failures.append(failure)
                reporter.progress("runs", done, total)
        finally:
            pool.shutdown(cancel_futures=True)
    return failures


def _run(task: Task, store: Path, splits: tuple[str, ...], lock: int) -> Failure | None:
    """Do one run in a process of its own; return how it failed, if it did."""
    shutil.rmtree(task.folder, ignore_errors=True)
    task.folder.parent.mkdir(parents=True, exist_ok=True)
    settings_file(task.folder).write_text(to_yaml(task.config), encoding="utf-8")
    arguments = [str(task.folder), str(store), *splits]
    with task.log.open("wb") as log:
        code = subprocess.run(
            [sys.executable, "-m", "pipelines.sweeps.one_run", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": str(task.config.trainer.threads or 1)},
            pass_fds=(lock,),
        ).returncode
    if code == 0:
        return None
    said = task.log.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line.strip() for line in said if line.strip()][-LAST_LINES:]
    return Failure(task.row, task.seed, str(task.log), (*lines, f"exit code {code}"))


def _tell(task: Task, split: str) -> str:
    result = Result.load(task.folder)
    return (
        f"{task}: gIoU {result.overall[split].giou:.1f}, cIoU {result.overall[split].ciou:.1f} on "
        f"{split}; trained in {result.seconds:.0f} s"
    )


@contextmanager
def _held(out: Path) -> Iterator[int]:
    """Hold a sweep's folder; yields the lock as a file descriptor.

    Runs inherit the lock: one that outlives a killed sweep still keeps others out.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"sweeping into {out}: another sweep, or a run of one, is still at work there; "
                "wait until it ends"
            ) from None
        yield lock.fileno()
