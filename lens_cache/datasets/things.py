"""Masks of all things of an image, for datasets that have ``scenes.jsonl``.

    {"image": "images/val/000000.png", "things": [{"rle": {...}, ...}, ...]}

Other keys are not read. One evaluation baseline uses it: the mask of a random thing.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from lens_cache.datasets.mask_parsing import mask_from_rle
from lens_cache.errors import DatasetError, one_line
from lens_cache.images.masks import Rle

SCENES_FILE = "scenes.jsonl"

Things = dict[str, list[Rle]]


def read_things(root: Path, images: Collection[str]) -> Things | None:
    """Return the masks of all things of some images, by the image's path.

    Args:
        root: Folder of the dataset.
        images: Paths relative to the root; lines of other images are skipped.

    Returns:
        None if there is no file; an image that is not listed has no entry.

    Raises:
        DatasetError: If a line of the file is not valid.
    """
    path = root / SCENES_FILE
    if not path.exists():
        return None
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            if (image := entry["image"]) in images:
                found[image] = [mask_from_rle(thing["rle"]) for thing in entry["things"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(
                f"reading {path}, line {number}: expected an object with image and things, each "
                f"with an rle; {type(error).__name__}: {one_line(error, 100)}; write the "
                "data again"
            ) from None
    return found
