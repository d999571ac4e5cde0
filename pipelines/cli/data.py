"""The commands ``data ...``: make example data and models, convert and check datasets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lens_cache.errors import ConfigError, DatasetError
from pipelines.cli.options import Address, Json, open_bars, show

app = typer.Typer(help="Make, convert or check data.", no_args_is_help=True)


@app.command("tiny-checkpoints")
def tiny_checkpoints(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write.")],
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write small LLaVA and SAM checkpoints with random weights, in the real formats."""
    from lens_cache.toy.random_checkpoints import write_tiny_checkpoints

    write_tiny_checkpoints(folder, seed)
    print(f"wrote {folder / 'llava'} and {folder / 'sam.pth'}")


@app.command("shapes")
def shapes(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write.")],
    train: Annotated[int, typer.Option(min=0, help="Number of training images.")] = 2000,
    val: Annotated[int, typer.Option(min=0, help="Number of validation images.")] = 200,
    test: Annotated[int, typer.Option(min=0, help="Number of test images.")] = 300,
    hard: Annotated[
        int,
        typer.Option(
            min=0, help="Number of crowded test images with unseen pairs of colour and shape."
        ),
    ] = 200,
    absent: Annotated[
        int,
        typer.Option(
            min=0, help="Number of test images with instructions that mean nothing there."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of images and instructions.")] = 0,
) -> None:
    """Write a world of shapes with instructions and exact masks, in the jsonl layout."""
    from lens_cache.toy.world import write_world

    counts = {"train": train, "val": val, "test": test, "hard": hard}
    if absent:
        counts["absent"] = absent
    with open_bars() as bars:
        write_world(folder, counts, seed=seed, progress=bars.progress)
    print(f"{folder} has " + ", ".join(f"{n} {split}" for split, n in counts.items()))


@app.command("shapes-models")
def shapes_models(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write.")],
) -> None:
    """Copy the tiny LLaVA and the tiny SAM that were trained on the world of shapes."""
    import shutil

    from lens_cache.assets import SHAPES_MODELS
    from lens_cache.store.io.files import folder_in_one_step

    if folder.exists():
        raise ConfigError(f"copying the models: {folder} already exists; give a new folder")
    with folder_in_one_step(folder) as new:
        shutil.copytree(SHAPES_MODELS, new, dirs_exist_ok=True)
    print(f"wrote {folder / 'llava'} and {folder / 'sam.pth'}; {folder / 'CARD.md'} describes them")


@app.command("shapes-benchmarks")
def shapes_benchmarks(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write.")],
    scenes: Annotated[int, typer.Option(min=1, help="Number of drawn scenes.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
) -> None:
    """Write MME, MMBench, MMMU and MMStar about drawn shapes, and requests to route."""
    from lens_cache.benchmarks.shapes import write_shapes_benchmarks

    if folder.exists():
        raise ConfigError(f"writing benchmarks: {folder} already exists; give a new folder")
    with open_bars() as bars:
        write_shapes_benchmarks(folder, scenes, seed=seed, progress=bars.progress)
    print(f"{folder} has {', '.join(sorted(path.name for path in folder.iterdir()))}")


@app.command("pascal-part")
def pascal_part(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="The folder with Annotations_Part and VOCdevkit, or one of these two folders.",
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.json", help="File to write.")],
    split: Annotated[
        str, typer.Option(help="A file of ImageSets/Main, or a path, with names of images.")
    ] = "train.txt",
) -> None:
    """Convert PASCAL-Part to the COCO file of the set pascal_part, as VLPart's converter does.

    Needs scipy: pip install 'lens-cache[pascal]'.
    """
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
    print(f"wrote {out}; {counts}, skipped: {len(rejected)}")
    for entry in rejected:
        typer.echo(f"skipped: {entry.what}: {entry.reason}", err=True)


@app.command("check")
def check(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of LISA's datasets.")],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--sets",
            metavar="NAME[|VARIANT][|SPLIT]",
            help="Sets to check, separated by commas or repeated; all sets by default.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only check that files exist, and count images.")
    ] = False,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Check LISA's folder: missing sets, broken files, and images shared by several sets.

    Exit code 1 if a checked set is missing or broken.
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
