"""Run a sweep: every row with every seed, each a training run in its own process and folder.

OUT/runs/ROW/seed-N/        the run; its result.json is written last and marks it as finished
OUT/runs/ROW/seed-N.yaml    its settings
OUT/runs/ROW/seed-N.log     its output
OUT/NAME.md, .json, .svg    the comparison of all runs
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from lens_cache.config.load import to_yaml
from lens_cache.config.sweep import SweepConfig, row_settings
from lens_cache.config.train import TrainConfig
from lens_cache.errors import ConfigError, TrainingError
from lens_cache.store.io.file_lock import file_lock
from lens_cache.store.manifest import Manifest
from lens_cache.store.store import Store
from pipelines.interrupt import stop_on_signals
from pipelines.progress import Reporter
from pipelines.provenance import record_run
from pipelines.sweeps import one_run
from pipelines.sweeps.one_run import RESULT_FILE, Result, settings_file
from pipelines.sweeps.processes import Processes

LOCK_FILE = ".lock"
_LAST_LINES = 5


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: a row with a seed, trained into a folder."""

    row: str
    seed: int
    folder: Path
    config: TrainConfig

    @property
    def log(self) -> Path:
        """File with the output of the run."""
        return self.folder.parent / f"{self.folder.name}.log"

    def __str__(self) -> str:
        return f"{self.row!r}, seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """A run that ended without a result, with the last lines of its log."""

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
    """Results of a sweep by row and seed, and the runs that failed."""

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
    """Do all runs that are not finished, and collect the results of all runs.

    A run that was killed starts from the beginning, because the time of a resumed run would not be
    comparable. Each run has one GPU, where there are GPUs.

    Args:
        config: The sweep.
        store_path: A complete store with the splits, and the layers of all rows.
        out: The folder of the sweep.
        reporter: Receives the progress.
        seeds: Each row is trained with the seeds 0 to ``seeds - 1``.
        steps: Optimizer steps of every run; by default those of the base.
        jobs: Number of processes at the same time.

    Raises:
        Interrupted: If SIGINT or SIGTERM stopped it; finished runs are kept.
        ConfigError: If ``out`` has runs with other settings or from another store.
        StoreError: If the store is not complete or lacks a split.
        TrainingError: If another sweep runs in ``out``.
    """
    store = Store(store_path)
    for split in config.splits:
        store.images(split, None)
    runs = _runs(config, out, seeds, steps)
    out.mkdir(parents=True, exist_ok=True)
    busy = TrainingError(
        f"sweeping into {out}: another sweep, or a run of one, still works there; wait until it "
        "ends"
    )
    # Runs inherit the lock: a run that outlives a killed sweep still keeps other sweeps out.
    with (
        stop_on_signals(reporter.message, lambda: _runs_done(runs)),
        file_lock(out / LOCK_FILE, busy) as lock,
    ):
        todo = [run for run in runs if not _finished(run, store)]
        record_run(out, config)
        failures = _run_all(todo, len(runs), store_path, config.splits, reporter, jobs, lock)
    failed = {(failure.row, failure.seed) for failure in failures}
    outcome = Outcome(failures=failures)
    for run in runs:
        if (run.row, run.seed) not in failed:
            outcome.results.setdefault(run.row, {})[run.seed] = Result.load(run.folder)
    return outcome


def _runs_done(runs: list[SweepRun]) -> str:
    done = sum((run.folder / RESULT_FILE).exists() for run in runs)
    return f"{done} of {len(runs)} runs are finished"


def _runs(config: SweepConfig, out: Path, seeds: int, steps: int | None) -> list[SweepRun]:
    """List the runs, all rows of a seed before the next seed: an early end can be compared."""
    return [
        SweepRun(
            row=row.name,
            seed=seed,
            folder=out / "runs" / row.folder / f"seed-{seed}",
            config=row_settings(config, row, seed=seed, steps=steps),
        )
        for seed in range(seeds)
        for row in config.rows
    ]


def _finished(run: SweepRun, store: Store) -> bool:
    """Return whether a run is finished; refuse one with other settings or from another store."""
    if not (run.folder / RESULT_FILE).exists():
        return False
    same_store = _content(Manifest.load(run.folder)) == _content(store.manifest)
    if Result.load(run.folder).config != run.config or not same_store:
        difference = "with other settings" if same_store else "from another store"
        raise ConfigError(
            f"sweeping over {run}: {run.folder} has a finished run {difference}; choose "
            "another folder for this sweep, or remove that run"
        )
    return True


def _content(manifest: Manifest) -> tuple[object, ...]:
    """Return the facts that define the content of a store, without its location."""
    return manifest.fingerprints, manifest.precision, manifest.plan, manifest.side


def _run_all(
    todo: list[SweepRun],
    total: int,
    store: Path,
    splits: tuple[str, ...],
    reporter: Reporter,
    jobs: int,
    lock: int,
) -> list[Failure]:
    """Do the runs, ``jobs`` at a time; return the failures."""
    done = total - len(todo)
    failures = []
    reporter.progress("runs", done, total)
    processes = Processes(jobs)
    # The threads only wait for processes.
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(_run, run, store, splits, lock, processes): run for run in todo}
        try:
            for future in as_completed(futures):
                failure = future.result()
                done += 1
                if failure is None:
                    reporter.message(_result_line(futures[future], splits[0]))
                else:
                    reporter.message(str(failure))
                    failures.append(failure)
                reporter.progress("runs", done, total)
        except BaseException:
            processes.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return failures


def _run(
    run: SweepRun, store: Path, splits: tuple[str, ...], lock: int, processes: Processes
) -> Failure | None:
    """Do one run in its own process; return its failure, if any."""
    shutil.rmtree(run.folder, ignore_errors=True)
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    settings_file(run.folder).write_text(to_yaml(run.config), encoding="utf-8")
    arguments = [str(run.folder), str(store), *splits]
    code = processes.run(
        one_run.__name__,
        arguments,
        log=run.log,
        environment={"OMP_NUM_THREADS": str(run.config.trainer.threads or 1)},
        pass_fds=(lock,),
    )
    if code == 0:
        return None
    output = run.log.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line.strip() for line in output if line.strip()][-_LAST_LINES:]
    return Failure(run.row, run.seed, str(run.log), (*lines, f"exit code {code}"))


def _result_line(run: SweepRun, split: str) -> str:
    result = Result.load(run.folder)
    score = result.overall[split]
    return (
        f"{run}: gIoU {score.giou:.1f}, cIoU {score.ciou:.1f} on {split}; "
        f"trained in {result.seconds:.0f} s"
    )
