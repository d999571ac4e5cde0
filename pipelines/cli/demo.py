"""The demo, and the training of the models that it shows."""

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
        Path, typer.Argument(metavar="FOLDER", help="For scenes (6 GB), logs and models.")
    ],
    processes: Annotated[
        int, typer.Option(min=1, help="Processes of one thread; one takes a GPU if there is one.")
    ] = 2,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would do and write nothing.")
    ] = False,
) -> None:
    """Train the tiny LLaVA and the tiny SAM of the package again, from nothing."""
    from pipelines.pretraining.pretrain import Pretraining, describe
    from pipelines.pretraining.pretrain import pretrain as go

    settings = Pretraining()
    print(describe(settings))
    if dry_run:
        return
    with open_bars() as bars:
        models = go(folder, settings, processes, bars)
    print(f"wrote {models / 'llava'} and {models / 'sam.pth'}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that is made.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Decides the data and the training.")] = 0,
    data: Annotated[
        Path | None, typer.Option(help="A COCO folder, to go on photographs with random models.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of --data; the only one there is, by default.")
    ] = None,
) -> None:
    """Go the whole way on drawn shapes, from a cache to a trained head and a page that shows it.

    With --data the way goes over photographs, with tiny random models; it shows only that it works.
    """
    from pipelines.demo import photographs, shapes

    if split is not None and data is None:
        raise ConfigError("the demo: --split (SPLIT= for make) goes with --data (DATA=)")
    with open_bars() as bars:
        if data is None:
            result = shapes.demo(out, bars, seed=seed)
        else:
            result = photographs.demo(out, data, split, bars, seed=seed)
    show(result, as_json=False)
