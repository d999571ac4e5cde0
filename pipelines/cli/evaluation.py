"""Commands that measure masks: evaluate a method on a split, list its queries, compare two."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_cache.errors import ConfigError
from pipelines.cli.options import (
    Address,
    Checkpoint,
    ConfigFiles,
    Device,
    Json,
    Overrides,
    chosen_device,
    local_folder,
    open_bars,
    show,
    store_location,
)

if TYPE_CHECKING:
    from lens_cache.evaluation.split import EvaluationSplit
    from lens_cache.store.store import Store
    from lens_cache.training.run import Run, Which
    from pipelines.evaluation.evaluate import Runner
    from pipelines.evaluation.job import Job
    from pipelines.progress import Bars

app = typer.Typer()
Split = Annotated[
    str, typer.Option(metavar="SPLIT", help="Split of the data, such as val or reason_seg|val.")
]
OptionalRun = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN]", parser=local_folder, help="Folder of a training run."),
]
OptionalStore = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="STORE", parser=store_location, help="Folder or URL of a store."
    ),
]
HeadOption = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="NAME", help="An exported head: a folder, a hub id, or shapes."
    ),
]
Limit = Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the first N images.")]


@app.command()
def evaluate(
    split: Split,
    run: OptionalRun = None,
    store: OptionalStore = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    model: HeadOption = None,
    predictions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Masks of any method: JSON lines with COCO RLE."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Output folder; by default RUN/evaluation.")
    ] = None,
    checkpoint: Checkpoint = None,
    limit: Limit = None,
    panels: Annotated[int, typer.Option(metavar="N", min=0, help="Panels to draw.")] = 12,
    data_root: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the images, if it has moved.")
    ] = None,
    device: Device = None,
    workers: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Ray workers; 0 evaluates in this process."),
    ] = 0,
    address: Address = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Fit the scores of masks on this split; use a validation split."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure the masks of a run, an exported head or a file on a split.

    From --store no frozen model runs; with -c FILE the images are read and the frozen models run.
    With both, the store is used if it has the split. An evaluation that was killed resumes.
    """
    if sum(one is not None for one in (run, model, predictions)) != 1:
        raise ConfigError("evaluate: expected one of RUN, --model and --predictions")

    from pipelines.evaluation.report import evaluation as report_evaluation

    with open_bars() as bars:
        chosen, opened = _split(split, store, config, overrides, limit, bars)
        if predictions is not None:
            from pipelines.evaluation.predictions import evaluate_predictions

            folder = out or _default_folder(predictions.stem, split)
            found = evaluate_predictions(predictions, chosen, folder, bars.progress)
        else:
            from pipelines.evaluation.evaluate import evaluate_head

            job, trained = _job(run, model, checkpoint, chosen, opened, overrides, device)
            found = evaluate_head(
                job,
                run=trained,
                which=checkpoint,
                folder=out or (_default_folder(str(model), split) if trained is None else None),
                num_panels=panels,
                data_root=data_root,
                calibrate=calibrate,
                runner=_runner(workers, address),
                progress=bars.progress,
            )
    show(report_evaluation(found), as_json)


@app.command()
def queries(
    split: Split,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Output file: JSON lines.")],
    store: OptionalStore = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    limit: Limit = None,
    as_json: Json = False,
) -> None:
    """List the queries of a split for a method of your own: id, image, instruction, size."""
    from pipelines.evaluation.predictions import write_queries
    from pipelines.reports.report import Report

    with open_bars() as bars:
        chosen, _ = _split(split, store, config, overrides, limit, bars)
        count = write_queries(chosen, out)
    text = f"{count} queries about {len(chosen.draws)} images in {out}; images in {chosen.root}"
    show(Report({"queries": count, "file": str(out), "root": str(chosen.root)}, text), as_json)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="Folder of an evaluation.")],
    second: Annotated[
        Path, typer.Argument(metavar="SECOND", help="Folder of another one, of the same queries.")
    ],
    out: Annotated[Path, typer.Option(metavar="OUT", help="Output folder.")] = Path("runs/compare"),
    data_root: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder of the images, for the page.")
    ] = Path(),
    shown: Annotated[int, typer.Option(metavar="N", min=0, help="Queries on the page.")] = 12,
    as_json: Json = False,
) -> None:
    """Compare two evaluations query by query: differences with intervals, and a page."""
    from pipelines.evaluation.compare import compare as measure

    with open_bars() as bars:
        report = measure(
            first, second, out, data_root=data_root, shown=shown, progress=bars.progress
        )
    show(report, as_json)


@app.command()
def gallery(
    split: Split,
    run: OptionalRun = None,
    store: OptionalStore = None,
    config: ConfigFiles = None,
    overrides: Overrides = None,
    model: HeadOption = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path(
        "runs/gallery.html"
    ),
    checkpoint: Checkpoint = None,
    limit: Limit = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Draw the best, median and worst answers, swapped pairs and failures on a page."""
    if (run is None) == (model is None):
        raise ConfigError("gallery: expected one of RUN and --model")

    from lens_cache.store.io.files import replacing
    from pipelines.evaluation.gallery import gallery as draw
    from pipelines.reports.html import template
    from pipelines.reports.report import Report

    with open_bars() as bars:
        chosen, opened = _split(split, store, config, overrides, limit, bars)
        job, _ = _job(run, model, checkpoint, chosen, opened, overrides, device)
        found = draw(job, num_failures=8, progress=bars.progress)
    page = template("gallery.html").render(gallery=found, method=job.head.name, data=chosen.origin)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        file.write(page.encode())
    text = f"{out}: {found.passed} of {found.pairs} pairs pass the swap test"
    show(Report({"page": str(out), "pairs": found.pairs, "passed": found.passed}, text), as_json)


def _job(
    run: Path | None,
    model: str | None,
    checkpoint: Which | None,
    split: EvaluationSplit,
    store: Store | None,
    overrides: list[str] | None,
    device: str | None,
) -> tuple[Job, Run | None]:
    """Return the head of a run, or an exported one, on a split; and the run."""
    from lens_cache.predictor.trained_head import TrainedHead
    from lens_cache.training.run import Run
    from pipelines.evaluation.job import Job

    trained = None if run is None else Run.open(run)
    if trained is None:
        head = TrainedHead.from_pretrained(str(model))
    else:
        head = TrainedHead.of_run(trained, checkpoint)
    job = Job(
        head=head,
        split=split,
        store=None if store is None else store.root,
        overrides=tuple(one for one in overrides or () if one.startswith("encoders.")),
        device=chosen_device(device),
    )
    return job, trained


def _split(
    name: str,
    store: Path | None,
    config: list[str] | None,
    overrides: list[str] | None,
    limit: int | None,
    bars: Bars,
) -> tuple[EvaluationSplit, Store | None]:
    """Return the queries, and the store with their features if it is used."""
    from lens_cache.config.extract import ExtractConfig
    from lens_cache.config.load import load_config
    from lens_cache.evaluation.split import EvaluationSplit
    from lens_cache.store.store import Store

    if store is None and not config and not overrides:
        raise ConfigError("choosing queries: expected --store STORE or -c FILE, found neither")
    if store is not None:
        opened = Store(store)
        if not config or opened.plan.in_split(name).any():
            return EvaluationSplit.of_store(opened, name, limit), opened
    data = load_config(ExtractConfig, config, overrides or ()).data
    if data.kind == "coco" and data.split is None:  # the only kind that does not open without it
        data = replace(data, split=name)
    return EvaluationSplit.of_data(data, name, limit, bars.progress), None


def _runner(workers: int, address: str | None) -> Runner | None:
    if not workers:
        return None
    from pipelines.evaluation.ray_workers import on_ray

    return on_ray(workers, address)


def _default_folder(name: str, split: str) -> Path:
    return Path("runs/evaluation", re.sub(r"[^\w.-]+", "_", f"{Path(name).name}-{split}"))
