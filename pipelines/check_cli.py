"""``lens-cache data check``; mounted by ``cli``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

check_app = typer.Typer()


@check_app.command("check")
def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="LISA's folder of datasets.")],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--sets",
            metavar="NAME[|VARIANT][|SPLIT]",
            help="Only these, separated by commas or given again; every set by default.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only look for files and count images.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, e.g. auto; this machine by default.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document on stdout.")
    ] = False,
) -> None:
    """Look at LISA's folder: what is missing, what is broken, which sets share images.

    Exit code 1 if a set that was asked for is missing or broken.
    """
    from lens_cache.datasets.lisa.check import check_folder
    from pipelines.check_report import folder_check
    from pipelines.planning import on_ray
    from pipelines.progress import Bars

    wanted = [name for text in sets or () for name in text.split(",") if name]
    with Bars() as bars:
        found = check_folder(root, wanted, on_ray(address), bars.progress, quick=quick)
    report = folder_check(found)
    print(json.dumps(report.document, indent=2) if as_json else report.text)
    if not found.good:
        raise typer.Exit(1)
