"""Commands that use a trained head: segment files, export it, chat, serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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


@app.command()
def mcp(
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Read image files below this folder only; without it clients send base64.",
        ),
    ] = None,
    run: Run = None,
    model: Model = None,
    transport: Annotated[
        Literal["stdio", "http"],
        typer.Option(help="stdio: the client starts this command; http: it connects to a port."),
    ] = "stdio",
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="For http: address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="For http: port.")] = 8000,
    allow_remote: Annotated[
        bool,
        typer.Option(
            "--allow-remote",
            help="Accept an --host that other machines reach; there is no password.",
        ),
    ] = False,
    talk: Annotated[
        bool,
        typer.Option("--talk/--no-talk", help="Load the whole multimodal LLM, for the tool ask."),
    ] = True,
    overrides: Overrides = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
) -> None:
    """Serve the tools segment and ask to programs that speak MCP."""
    from lens_cache.tools.mcp_server import check_options, serve_mcp

    check_options(root, transport=transport, host=host, allow_remote=allow_remote)
    predictor = load_predictor(run, model, overrides, checkpoint, device, chat=talk)
    serve_mcp(
        predictor,
        root,
        transport=transport,
        host=host,
        port=port,
        allow_remote=allow_remote,
    )
