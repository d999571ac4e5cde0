"""Commands that use a trained head: segment files, export it, chat, serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lens_cache.errors import ConfigError
from pipelines.cli.options import (
    Checkpoint,
    Device,
    Json,
    Overrides,
    RunPath,
    chosen_device,
    local_folder,
    show,
)

if TYPE_CHECKING:
    from lens_cache.predictor import LensPredictor

app = typer.Typer()
Run = Annotated[
    Path | None,
    typer.Option(metavar="RUN", parser=local_folder, help="Use the head of this training run."),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Use an exported head: a folder, a hub id, or shapes, which comes with the package "
        "and is the default.",
    ),
]


@app.command()
def segment(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="An image file, or a folder of images.")
    ],
    instructions: Annotated[
        list[str],
        typer.Argument(
            metavar="INSTRUCTION...", help='What to segment, e.g. "the orange"; one or several.'
        ),
    ],
    run: Run = None,
    model: Model = None,
    out: Annotated[Path, typer.Option(metavar="OUT", help="Output folder.")] = Path("runs/segment"),
    overrides: Overrides = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Segment images by instructions: write masks, overlays, and panels that explain them."""
    from pipelines.inference.segment import segment as answer

    predictor = load_predictor(run, model, overrides, checkpoint, device)
    show(answer(predictor, image, instructions, out), as_json)


@app.command()
def export(
    run: RunPath,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Output folder; must be empty or new.")
    ],
    checkpoint: Checkpoint = None,
    push: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Also upload to this hub repository.")
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: create a public repository.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Export the trained head of a run: weights, settings and a card with measured scores."""
    from pipelines.inference.export import export as write

    show(write(run, folder, which=checkpoint, push=push, public=public), as_json)


def load_predictor(
    run: Path | None,
    model: str | None,
    overrides: list[str] | None,
    checkpoint: Checkpoint,
    device: str | None,
    *,
    chat: bool = False,
) -> LensPredictor:
    """Load the predictor that the options name; by default the head of the world of shapes.

    Raises:
        ConfigError: If the options contradict each other.
    """
    if run is not None and model is not None:
        raise ConfigError("loading a head: give --run or --model, not both")
    if run is None and checkpoint is not None:
        raise ConfigError("loading a head: --checkpoint needs --run")

    from lens_cache.predictor import LensPredictor
    from lens_cache.predictor.trained_head import SHAPES, TrainedHead

    if run is not None:
        head = TrainedHead.of_run(run, checkpoint)
    else:
        head = TrainedHead.from_pretrained(model or SHAPES)
    return LensPredictor(
        head, overrides=tuple(overrides or ()), device=chosen_device(device), chat=chat
    )
