"""Commands that use a trained head: segment files, export it, chat, serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lens_cache.errors import ConfigError, ImageError
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
    from lens_cache.agent.agent import Talker
    from lens_cache.predictor import LensPredictor

app = typer.Typer()
RunOption = Annotated[
    Path | None,
    typer.Option(metavar="RUN", parser=local_folder, help="Use the head of this training run."),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Use an exported head: a folder, a hub id, or shapes, which comes with the package "
        "and is the default.",
    ),
]
ChatEndpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Dialogue by an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1; its key in "
        "LENS_CACHE_CHAT_KEY.",
    ),
]
ChatModel = Annotated[str, typer.Option(metavar="NAME", help="Model of --chat-endpoint.")]


@app.command()
def segment(
    image: Annotated[
        Path | None,
        typer.Argument(
            metavar="[IMAGE]",
            help="An image file, or a folder of images; by default a picture of the package.",
        ),
    ] = None,
    instructions: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[INSTRUCTION]...",
            help='What to segment, e.g. "the orange"; one or several.',
        ),
    ] = None,
    run: RunOption = None,
    model: ModelOption = None,
    out: Annotated[Path, typer.Option(metavar="OUT", help="Output folder.")] = Path("runs/segment"),
    overrides: Overrides = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Segment images by instructions: write masks, overlays, and panels that explain them."""
    from lens_cache.assets import SHAPES_PICTURES

    if image is None:
        image, instructions = SHAPES_PICTURES / "ring.png", ["the red ring"]
    elif not instructions:
        raise ConfigError(f'segmenting {image}: expected an instruction, e.g. "the orange"')
    elif not image.exists():
        raise ImageError(f"segmenting {image}: no such file or folder")

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


@app.command()
def chat(
    image: Annotated[
        Path | None, typer.Argument(metavar="[IMAGE]", help="A picture to talk about.")
    ] = None,
    run: RunOption = None,
    model: ModelOption = None,
    out: Annotated[Path, typer.Option(metavar="OUT", help="Output folder for masks.")] = Path(
        "runs/chat"
    ),
    chat_endpoint: ChatEndpoint = None,
    chat_model: ChatModel = "default",
    overrides: Overrides = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
) -> None:
    """Talk about pictures: questions are answered, requests for masks are segmented."""
    from pipelines.inference.chat import chat as talk

    talker = _talker(chat_endpoint, chat_model)
    predictor = load_predictor(run, model, overrides, checkpoint, device, chat=talker is None)
    talk(predictor, talker, image, out)


@app.command()
def serve(
    run: RunOption = None,
    model: ModelOption = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 7860,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="LENS_CACHE_TOKEN",
            show_envvar=True,
            help="Clients must send this token; better in the environment.",
        ),
    ] = None,
    talk: Annotated[
        bool,
        typer.Option("--talk/--no-talk", help="Load the whole multimodal LLM, for the agent."),
    ] = True,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Serve the page too.")] = True,
    root_path: Annotated[
        str, typer.Option(metavar="PATH", help="Path of the server behind a proxy, e.g. /lens.")
    ] = "",
    max_queue: Annotated[
        int, typer.Option(min=1, metavar="N", help="Requests that may wait; others get 429.")
    ] = 64,
    label_studio: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Also answer Label Studio; its tasks may name image files below this folder.",
        ),
    ] = None,
    chat_endpoint: ChatEndpoint = None,
    chat_model: ChatModel = "default",
    overrides: Overrides = None,
    checkpoint: Checkpoint = None,
    device: Device = None,
) -> None:
    """Serve an HTTP API and a page for masks and conversations, on this machine only by default."""
    require_extra("serve", "fastapi", "uvicorn", "multipart", "prometheus_client", "gradio")

    from pipelines.serve.limits import Limits
    from pipelines.serve.server import serve as run_server

    talker = _talker(chat_endpoint, chat_model)
    whole = talk and talker is None
    predictor = load_predictor(run, model, overrides, checkpoint, device, chat=whole)
    run_server(
        predictor,
        talker=talker,
        host=host,
        port=port,
        token=token,
        limits=Limits(max_queue=max_queue),
        page=page,
        label_studio=label_studio,
        root_path=root_path.rstrip("/"),
    )


def require_extra(extra: str, *modules: str) -> None:
    """Refuse a command whose optional packages are not installed.

    Raises:
        ConfigError: If one is missing; the message has the line that installs it.
    """
    from importlib.util import find_spec

    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"this command needs {', '.join(missing)}; run `pip install 'lens-cache[{extra}]'`"
        )


def _talker(url: str | None, model: str) -> Talker | None:
    if url is None:
        return None
    from lens_cache.agent.endpoint import ChatEndpoint as Endpoint

    return Endpoint(url, model)


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
    run: RunOption = None,
    model: ModelOption = None,
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
