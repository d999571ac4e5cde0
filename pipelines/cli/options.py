"""What several commands share: their arguments, and how they show what they found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from pipelines.progress import Bars


def store_location(text: str) -> Path:
    """Read a store's place: a folder or a URL."""
    from lens_cache.store.io.remote import store_path

    return store_path(text)


def local_folder(text: str) -> Path:
    """Read a folder on a disk; a URL is bad usage."""
    if "://" in text:
        raise typer.BadParameter(f"expected a folder on a disk, found the URL {text}")
    return Path(text)


StorePath = Annotated[
    Path,
    typer.Argument(
        metavar="STORE", parser=store_location, help="Folder or URL of the feature cache."
    ),
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", parser=local_folder, help="Folder of the training run.")
]
StoreOption = Annotated[
    Path, typer.Option("--store", parser=store_location, help="Folder or URL of the feature cache.")
]
ConfigFile = Annotated[Path | None, typer.Option("-c", "--config", help="YAML settings.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=VALUE", help="Override one setting.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Checkpoint = Annotated[
    Literal["best", "last"] | None,
    typer.Option(help="Which checkpoint; the best one where there is one, by default."),
]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster, e.g. auto; this machine by default.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")]


def open_bars(window: float = 30.0) -> Bars:
    """Return progress bars whose rates are measured over a window in seconds."""
    from pipelines.progress import Bars

    return Bars(window)


def default_device() -> str:
    """Return cuda if PyTorch can use a GPU, cpu otherwise."""
    from lens_cache.features.types import default_device as available

    return available()


def show(report: Any, as_json: bool) -> None:
    """Print a report as JSON or as text."""
    print(json.dumps(report.document, indent=2) if as_json else report.text)
