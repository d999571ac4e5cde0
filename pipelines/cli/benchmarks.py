"""Commands that measure speed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import (
    Checkpoint,
    Device,
    Json,
    Overrides,
    chosen_device,
    open_bars,
    show,
    store_location,
)
from pipelines.cli.use import ModelOption, RunOption, load_predictor, require_extra

app = typer.Typer(help="Measure speed, and the agent of the package.", no_args_is_help=True)


@app.command("extract")
def benchmark_extract(
    instructions: Annotated[int, typer.Option(min=1, help="Instructions per image.")] = 8,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images per round; by default 2, or 16 on a GPU.")
    ] = None,
    images_per_batch: Annotated[
        int | None, typer.Option(min=1, help="Images per batch; by default 1, or 4 on a GPU.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the report shows medians.")] = 3,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Sizes of LLaVA-1.5-7B and SAM ViT-H; needs a GPU.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare an extraction with running all models for every instruction (random weights)."""
    from pipelines.benchmark.extract import benchmark_extract as measure
    from pipelines.benchmark.extract_report import report_extract

    with open_bars() as bars:
        found = measure(
            bars,
            full_size=full_size,
            device=chosen_device(device),
            instructions=instructions,
            images=images,
            images_per_batch=images_per_batch,
            rounds=rounds,
        )
    show(report_extract(found), as_json)


@app.command("store")
def benchmark_store(
    images: Annotated[
        int | None, typer.Option(min=1, help="Records; by default 32, or 64 with --full-size.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the report shows medians.")] = 15,
    full_size: Annotated[
        bool,
        typer.Option("--full-size", help="Records of LLaVA-1.5-7B and SAM ViT-H, 7.5 MB each."),
    ] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Drop the files from the page cache before each pass.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="New folder in which the files are kept; by default they are removed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the reading speed of stores with raw memory and with formats of other packages."""
    from pipelines.benchmark.store import benchmark_store as measure
    from pipelines.benchmark.store_report import report_store

    with open_bars() as bars:
        found = measure(bars, full_size=full_size, images=images, rounds=rounds, cold=cold, out=out)
    show(report_store(found), as_json)


@app.command("train")
def benchmark_train(
    instructions: Annotated[int, typer.Option(min=1, help="Instructions per image.")] = 8,
    images: Annotated[int, typer.Option(min=1, help="Images per step.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the report shows medians.")] = 3,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Sizes of LLaVA-1.5-7B and SAM ViT-H; needs a GPU.")
    ] = False,
    cached: Annotated[
        bool,
        typer.Option(
            "--cached", help="Only training from a store; with --full-size it needs 24 GB."
        ),
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare training from a store with running the frozen models (random weights)."""
    from pipelines.benchmark import train, train_report

    with open_bars() as bars:
        found = train.benchmark_train(
            bars,
            full_size=full_size,
            device=chosen_device(device),
            cached=cached,
            instructions=instructions,
            images=images,
            rounds=rounds,
        )
    show(train_report.report_train(found), as_json)


@app.command("segment")
def benchmark_segment(
    run: RunOption = None,
    model: ModelOption = None,
    instructions: Annotated[
        int, typer.Option(min=1, help="Instructions of a batch, and further masks of a round.")
    ] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the report shows medians.")] = 15,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Sizes of LLaVA-1.5-7B and SAM ViT-H; needs a GPU.")
    ] = False,
    overrides: Overrides = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure the time of a mask: first, further, batched, corrected (default: random weights)."""
    from pipelines.benchmark.segment import benchmark_segment as measure
    from pipelines.benchmark.segment_report import report_segment

    with open_bars() as bars:
        found = measure(
            bars,
            device=chosen_device(device),
            run=run,
            which=checkpoint,
            model=model,
            overrides=overrides or (),
            full_size=full_size,
            instructions=instructions,
            rounds=rounds,
        )
    show(report_segment(found), as_json)


@app.command("precision")
def benchmark_precision(
    images: Annotated[int, typer.Option(min=1, help="Records.")] = 32,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; the report shows medians.")] = 7,
    full_size: Annotated[
        bool,
        typer.Option("--full-size", help="Records of LLaVA-1.5-7B and SAM ViT-H, 7.5 MB each."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure the size and the reading speed of features in fp8 and int8."""
    from pipelines.benchmark import precision as measured

    with open_bars() as bars:
        found = measured.benchmark_precision(
            bars, full_size=full_size, images=images, rounds=rounds
        )
    show(measured.report_precision(found), as_json)


@app.command("gpu")
def benchmark_gpu(
    out: Annotated[
        Path, typer.Option(help="Folder of report.md, report.json and the logs of the sections.")
    ] = Path("runs/gpu-report"),
    section: Annotated[
        list[str] | None,
        typer.Option(help="Run only this section of the report; can be repeated."),
    ] = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, help="Most time of all sections together.")
    ] = 9.0,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="Tiny models on a GPU too; always on a CPU.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure both phases on a GPU at full size with random weights; without one, at tiny size.

    Every section runs in a process of its own and survives the failure of another. Exits with 1 if
    one failed.
    """
    from lens_cache.features.transfer import on_gpu
    from pipelines.benchmark.gpu.report import gpu_report
    from pipelines.benchmark.gpu.scale import FULL, TINY
    from pipelines.benchmark.gpu.sections import SECTIONS

    chosen = chosen_device(device)
    with open_bars() as bars:
        report, good = gpu_report(
            out,
            TINY if tiny or not on_gpu(chosen) else FULL,
            chosen,
            bars,
            names=section or tuple(SECTIONS),
            minutes=minutes,
        )
    show(report, as_json)
    if not good:
        raise typer.Exit(1)


@app.command("serve")
def benchmark_serve(
    run: RunOption = None,
    model: ModelOption = None,
    images: Annotated[int, typer.Option(min=1, help="Pictures that the clients ask about.")] = 8,
    requests: Annotated[int, typer.Option(min=1, help="Requests at each number of clients.")] = 200,
    clients: Annotated[
        list[int] | None, typer.Option(min=1, help="Clients at once; repeated. 1, 8 and 32.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Load the server over HTTP: latency, batches, and whether every answer is right.

    Pictures and instructions are those of the world of shapes.
    """
    require_extra("serve", "fastapi", "uvicorn", "multipart", "prometheus_client", "httpx")

    from pipelines.benchmark.serve import CONCURRENCY, measure_load, report_load, shapes_questions

    predictor = load_predictor(run, model, None, None, device)
    asked = shapes_questions(predictor, images)
    found = measure_load(predictor, asked, requests, tuple(clients or CONCURRENCY))
    show(report_load(found, predictor), as_json)


@app.command("agent")
def benchmark_agent(
    model: ModelOption = None,
    scenes: Annotated[int, typer.Option(min=1, help="Drawn scenes, unseen ones.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure how often the agent of the world of shapes routes and answers right."""
    from pipelines.benchmark.agent import measure_agent, report

    predictor = load_predictor(None, model, None, None, device, chat=True)
    with open_bars() as bars:
        found = measure_agent(predictor, scenes, seed=seed, progress=bars.progress)
    show(report(found), as_json)


@app.command("cost")
def benchmark_cost(
    out: Annotated[
        Path, typer.Option(metavar="OUT", help="Output folder; without --store also of a world.")
    ] = Path("runs/cost"),
    store: Annotated[
        Path | None,
        typer.Option(metavar="STORE", parser=store_location, help="A store; by default of shapes."),
    ] = None,
    run: RunOption = None,
    model: ModelOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps to measure.")] = 20,
    overrides: Overrides = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure memory, device time and bytes of both phases, and the time of a mask."""
    from lens_cache.evaluation.split import EvaluationSplit
    from lens_cache.predictor.trained_head import SHAPES, TrainedHead
    from lens_cache.store.store import Store
    from pipelines.benchmark.cost import measure_cost, shapes_store, write_cost

    head = TrainedHead.of_run(run) if run else TrainedHead.from_pretrained(model or SHAPES)
    with open_bars() as bars:
        opened = shapes_store(out, bars) if store is None else Store(store)
        names = opened.plan.splits()
        found = measure_cost(
            head,
            opened,
            EvaluationSplit.of_store(opened, min(names, key=lambda name: names[name])),
            bars,
            device=chosen_device(device),
            steps=steps,
            overrides=tuple(overrides or ()),
        )
    show(write_cost(found, out), as_json)
