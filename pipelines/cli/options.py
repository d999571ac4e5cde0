"""Arguments that several commands share, and how they print reports."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lens_cache.errors import ConfigError, one_line, printable

if TYPE_CHECKING:
    from pipelines.progress import Bars


def store_location(text: str) -> Path:
    """Parse the location of a store: a folder or a URL."""
    if "://" not in text:
        return Path(text)  # without importing PyTorch

    from lens_cache.store.io.remote import store_path

    return store_path(text)


def local_folder(text: str) -> Path:
    """Parse a local folder; a URL is bad usage."""
    if "://" in text:
        raise typer.BadParameter(f"expected a local folder, found the URL {text}")
    return Path(text)


StorePath = Annotated[
    Path,
    typer.Argument(metavar="STORE", parser=store_location, help="Folder or URL of the store."),
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", parser=local_folder, help="Folder of the training run.")
]
StoreOption = Annotated[
    Path,
    typer.Option(
        "--store", metavar="STORE", parser=store_location, help="Folder or URL of the store."
    ),
]
ConfigFiles = Annotated[
    list[str] | None,
    typer.Option(
        "-c",
        "--config",
        metavar="FILE",
        help="YAML file of settings, or a name such as coco; repeated, later files win.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=VALUE", help="Change one setting; can be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
Checkpoint = Annotated[
    Literal["best", "last"] | None,
    typer.Option(help="Checkpoint; by default the best, or the last if there is no best."),
]
Address = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Ray cluster, e.g. auto; by default this machine."),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="DEVICE", help="cpu, cuda, ...; by default a GPU if there is one."),
]


def open_bars(window: float = 30.0) -> Bars:
    """Return progress bars that measure rates over a window in seconds."""
    from pipelines.progress import Bars

    return Bars(window)


def chosen_device(device: str | None) -> str:
    """Return a device that PyTorch can use; without a choice a GPU if there is one, else the CPU.

    Raises:
        ConfigError: If PyTorch does not know the device or cannot use it.
    """
    import torch

    from lens_cache.features.types import default_device

    if device is None:
        device = default_device()
        if device == "cpu" and Path("/dev/nvidiactl").exists():
            print(
                "lens-cache: running on the CPU: this machine has a GPU, but PyTorch "
                f"{torch.__version__} cannot use it; check the driver (nvidia-smi)",
                file=sys.stderr,
            )
        return device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"--device {device}: expected a device that PyTorch can use, such as "
            f"{default_device()}; {one_line(error, 120)}"
        ) from None
    return device


def show(report: Any, as_json: bool) -> None:
    """Print a report as JSON or as text."""
    print(json.dumps(report.document, indent=2) if as_json else printable(report.text))
