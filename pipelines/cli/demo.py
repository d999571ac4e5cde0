"""The demo, and the training of its models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_cache.errors import ConfigError
from pipelines.cli.options import open_bars, show

app = typer.Typer()


@app.command("pretrain")
def pretrain(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Output folder for scenes (6 GB), logs and models."),
    ],
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="Processes with one thread each; one of them uses a GPU if there is one."
        ),
    ] = 2,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and write nothing.")
    ] = False,
) -> None:
    """Train the tiny LLaVA and the tiny SAM of the package from scratch."""
    from pipelines.pretraining.pretrain import Pretraining, describe
    from pipelines.pretraining.pretrain import pretrain as train_models

    settings = Pretraining()
    print(describe(settings))
    if dry_run:
        return
    with open_bars() as bars:
        models = train_models(folder, settings, processes, bars)
    print(f"wrote {models / 'llava'} and {models / 'sam.pth'}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Output folder.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data and of the training.")] = 0,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="A COCO folder: run on photographs with random models."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of --data; by default its only one.")
    ] = None,
) -> None:
    """Run all steps on drawn shapes, from extraction to a page with results (OUT/index.html).

    With --data it runs on photographs with tiny random models, which only shows that all steps
    work.
    """
    from pipelines.demo import photographs, shapes

    if split is not None and data is None:
        raise ConfigError("the demo: --split (SPLIT= for make) needs --data (DATA=)")
    with open_bars() as bars:
        if data is None:
            result = shapes.run_shapes_demo(out, bars, seed=seed)
        else:
            result = photographs.run_photographs_demo(out, data, split, bars, seed=seed)
    show(result, as_json=False)
