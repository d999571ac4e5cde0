"""The commands below ``lens-cache data`` that look after datasets; see ``cli``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lens_cache.errors import DatasetError

data_app = typer.Typer(help="Make or look at data.", no_args_is_help=True)


@data_app.command("pascal-part")
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
