"""Commands that make data and models to try things with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lens_cache.errors import ConfigError, DatasetError
from pipelines.cli.options import Address, Json, open_bars, show

app = typer.Typer(help="Make or look at data.", no_args_is_help=True)


@app.command("tiny-checkpoints")
def tiny_checkpoints(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write them.")],
    seed: Annotated[int, typer.Option(help="Decides the weights.")] = 0,
) -> None:
    """Write small random LLaVA and SAM checkpoints in the real formats, to try things with."""
    from lens_cache.toy.random_checkpoints import write_tiny_checkpoints

    write_tiny_checkpoints(folder, seed)
    print(f"wrote {folder / 'llava'} and {folder / 'sam.pth'}")


@app.command("shapes")
def shapes(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write it.")],
    train: Annotated[int, typer.Option(min=0, help="Pictures to train on.")] = 2000,
    val: Annotated[int, typer.Option(min=0, help="Pictures to validate on.")] = 200,
    test: Annotated[int, typer.Option(min=0, help="Pictures to test on.")] = 300,
    hard: Annotated[
        int, typer.Option(min=0, help="Crowded pictures with pairs of colour and shape unseen.")
    ] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Decides the pictures.")] = 0,
) -> None:
    """Draw a world of shapes with instructions and exact masks, in the jsonl layout."""
    from lens_cache.toy.world import write_world

    counts = {"train": train, "val": val, "test": test, "hard": hard}
    with open_bars() as bars:
        write_world(folder, counts, seed=seed, progress=bars.progress)
    print(f"{folder} holds " + ", ".join(f"{n} {split}" for split, n in counts.items()))


@app.command("shapes-models")
def shapes_models(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to copy them.")],
) -> None:
    """Copy the tiny LLaVA and the tiny SAM that were trained on the world of shapes."""
    import shutil

    from lens_cache.assets import SHAPES_MODELS

    if folder.exists():
        raise ConfigError(f"copying the models: {folder} is already there; give a new folder")
    shutil.copytree(SHAPES_MODELS, folder)
    print(f"wrote {folder / 'llava'} and {folder / 'sam.pth'}; {folder / 'CARD.md'} describes them")


@app.command("pascal-part")
def pascal_part(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="What holds Annotations_Part and VOCdevkit, or either of them."
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="The file to write.")],
    split: Annotated[
        str, typer.Option(help="A file of ImageSets/Main, or a path, with the images' names.")
    ] = "train.txt",
) -> None:
    """Make the COCO file that the set pascal_part is read from, as VLPart's converter does."""
    from lens_cache.datasets.lisa.pascal_mat import convert, find_annotations, read_split

    document, rejected = convert(find_annotations(folder), read_split(folder, split))
    if not document["images"]:
        first = f"; the first: {rejected[0].what}: {rejected[0].reason}" if rejected else ""
        raise DatasetError(f"converting {folder}: no image with a part of the categories{first}")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part")
    part.write_text(json.dumps(document), encoding="utf-8")
    part.replace(out)
    counts = f"images: {len(document['images'])}, annotations: {len(document['annotations'])}"
    print(f"wrote {out}; {counts}, set aside: {len(rejected)}")
    for entry in rejected:
        typer.echo(f"set aside: {entry.what}: {entry.reason}", err=True)


@app.command("check")
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
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Look at LISA's folder: what is missing, what is broken, which sets share images.

    Exit code 1 if a set that was asked for is missing or broken.
    """
    from lens_cache.plan.lisa_check import check_folder
    from pipelines.cli.data_report import folder_check
    from pipelines.extraction.ray_planning import ray_mapper

    wanted = [name for text in sets or () for name in text.split(",") if name]
    with open_bars() as bars:
        found = check_folder(root, wanted, ray_mapper(address), bars.progress, quick=quick)
    show(folder_check(found), as_json)
    if not found.good:
        raise typer.Exit(1)
