"""Small datasets of coloured images, and images that cannot be read."""

import dataclasses
import json

from lens_cache.config.data import DataConfig
from tests.support.pictures import box_polygon, colours, encoded


def own_data(root, pictures):
    """Write a JSONL dataset; ``pictures`` are the files' contents by name."""
    root.mkdir(parents=True)
    lines = []
    for name, data in pictures.items():
        (root / name).write_bytes(data)
        mask = {"polygons": [box_polygon(0, 0, 1, 1)]}
        lines.append(json.dumps({"image": name, "instruction": "the box", "mask": mask}))
    (root / "data.jsonl").write_text("\n".join(lines))
    return DataConfig(kind="jsonl", root=root)


def photos(count, width=40, height=30):
    """Return images by file name, ``0.png`` and so on."""
    return {f"{n}.png": encoded(colours(width, height, seed=n)) for n in range(count)}


def photos_from(start, stop):
    """Return the images of ``photos`` from one number on."""
    return {name: data for name, data in photos(stop).items() if int(name[:-4]) >= start}


def truncated(seed=99):
    """Return an image file that ends too early."""
    return encoded(colours(64, 48, seed=seed))[:-2000]


def change_data(config, **fields):
    """Return settings with other data settings."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))
