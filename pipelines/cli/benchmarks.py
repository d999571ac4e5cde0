"""Commands that measure how fast the work is."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import Device, Json, default_device, open_bars, show

app = typer.Typer(help="Measure how fast the work is.", no_args_is_help=True)


@app.command("extract")
def benchmark_extract(
    instructions: Annotated[int, typer.Option(min=1, help="Instructions per image.")] = 8,
    images: Annotated[
        int | None, typer.Option(min=1, help="Images per round; 2, or 16 on a GPU, if not given.")
    ] = None,
    images_per_batch: Annotated[
        int | None, typer.Option(min=1, help="Run at once; 1, or 4 on a GPU, if not given.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are shown.")] = 3,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="LLaVA-1.5-7B and SAM ViT-H, random, on a GPU.")
    ] = False,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare an extraction with running everything for every instruction; random weights."""
    from pipelines.benchmark.extract import benchmark_extract as measure
    from pipelines.benchmark.measurement import report

    with open_bars() as bars:
        found = measure(
            bars,
            full_size=full_size,
            device=device or default_device(),
            instructions=instructions,
            images=images,
            images_per_batch=images_per_batch,
            rounds=rounds,
        )
    show(report(found), as_json)
