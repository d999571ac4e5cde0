"""Commands that train from a store, evaluate, compare settings and segment images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import (
    ConfigFiles,
    Json,
    Overrides,
    RunPath,
    StoreOption,
    open_bars,
    show,
)

if TYPE_CHECKING:
    from lens_cache.config.sweep import SweepConfig
    from lens_cache.evaluation.baseline_scores import Baselines
    from lens_cache.training.run import Run
    from pipelines.sweeps.sweep import Outcome

app = typer.Typer()
Seeds = Annotated[
    int, typer.Option(metavar="N", min=1, help="Train each row with seeds 0 to N - 1.")
]
Steps = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Steps of every run; by default the file's.")
]
Jobs = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Runs at a time; by default one per GPU or core."),
]
# A run of a sweep may take an hour: measure rates over a day.
_HOURS = 24 * 3600.0


@app.command()
def train(
    run: RunPath,
    store: StoreOption,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume from the last checkpoint of the run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train the LENS modules from a store; no frozen encoder is loaded."""
    from lens_cache.config.load import load_config
    from lens_cache.config.train import TrainConfig

    if resume and not config and (run / "config.yaml").exists():
        config = [str(run / "config.yaml")]
    settings = load_config(TrainConfig, config, overrides or ())  # a mistake ends it at once

    from pipelines.reports.report import Report
    from pipelines.training.run_report import REPORT_FILE
    from pipelines.training.train import train as fit

    done = fit(run, store, settings, resume=resume)
    document = {
        "run": str(run),
        "steps": settings.trainer.max_steps,
        "checkpoint": str(done.checkpoint()),
        "report": str(run / REPORT_FILE),
    }
    text = f"trained {run}; checkpoint {done.checkpoint()}; report {run / REPORT_FILE}"
    show(Report(document, text), as_json)


@app.command()
def sweep(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="YAML file with base settings and rows, or a name such as layers."
        ),
    ],
    store: StoreOption,
    out: Annotated[Path, typer.Option(metavar="OUT", help="Output folder for runs and tables.")],
    seeds: Seeds = 3,
    steps: Steps = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Train every row of a sweep with several seeds and compare them in one table.

    Run it again after an interruption: finished runs are not repeated.
    """
    from lens_cache.config.sweep import load_sweep
    from pipelines.sweeps.processes import default_jobs
    from pipelines.sweeps.sweep import run_sweep

    config = load_sweep(file)
    with open_bars(_HOURS) as bars:
        outcome = run_sweep(
            config, store, out, bars, seeds=seeds, steps=steps, jobs=jobs or default_jobs()
        )
    _show_sweep(config, outcome, out, as_json)


@app.command()
def ablations(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Output folder.")],
    config: Annotated[
        str,
        typer.Option(
            "-c", "--config", metavar="FILE", help="YAML file with base settings and rows."
        ),
    ] = "ablations",
    seeds: Seeds = 3,
    steps: Steps = None,
    jobs: Jobs = None,
    as_json: Json = False,
) -> None:
    """Draw the world of shapes, extract it, and run the paper's ablations on it."""
    from lens_cache.config.sweep import load_sweep
    from pipelines.extraction.runners import on_ray
    from pipelines.sweeps.ablations import ablate
    from pipelines.sweeps.processes import default_jobs

    rows = load_sweep(config)
    with open_bars(_HOURS) as bars:
        outcome, without_lens = ablate(
            rows, out, bars, on_ray(None), seeds=seeds, steps=steps, jobs=jobs or default_jobs()
        )
    _show_sweep(rows, outcome, out, as_json, without_lens)


def _show_sweep(
    config: SweepConfig,
    outcome: Outcome,
    out: Path,
    as_json: bool,
    without_lens: Baselines | None = None,
) -> None:
    from pipelines.sweeps.report import write_report

    show(write_report(config, outcome, out, without_lens), as_json)
    if outcome.failures:
        raise typer.Exit(1)


def _open_run(folder: Path) -> Run:
    from lens_cache.training.run import Run

    return Run.open(folder)
