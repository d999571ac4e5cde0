"""A world of shapes on disk, in the layout of the ``jsonl`` dataset.

FOLDER/images/SPLIT/000000.png    the images; splits train, val, test, hard and absent
FOLDER/data.jsonl                 instructions with their masks, the training data of LENS
FOLDER/scenes.jsonl               all things of each image with their visible masks
FOLDER/world.json                 the arguments of ``write_world``
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from lens_cache.errors import ConfigError, DatasetError
from lens_cache.images import masks
from lens_cache.progress import Progress, no_progress
from lens_cache.store.io.files import folder_in_one_step
from lens_cache.toy.absent import sample_absent
from lens_cache.toy.drawing import PaintedScene, sample_painted_scene
from lens_cache.toy.instructions import sample_instructions
from lens_cache.toy.scene import HARD, STANDARD

RULES = {"train": STANDARD, "val": STANDARD, "test": STANDARD, "hard": HARD, "absent": STANDARD}
# First number of the seed of an image. The scenes on which the MLLM and SAM were trained use 101
# to 103, so no world with any seed repeats one of them.
SEEDS = {"train": 1011, "val": 1012, "test": 1013, "hard": 1014, "absent": 1016}
# A world without images of it is written as before there was this split.
OPTIONAL = "absent"
# Instructions of the split ``absent`` for each image: without a target, and with one or several.
NUM_ABSENT, NUM_PRESENT = 3, 6
WORLD_FILE = "world.json"
# Must be raised when equal arguments give other images, instructions or scenes than before.
VERSION = 1


def write_world(
    folder: Path, counts: Mapping[str, int], *, seed: int = 0, progress: Progress = no_progress
) -> None:
    """Write a world of shapes; the folder appears when it is complete.

    Equal arguments give equal bytes. An image depends only on seed, split and index, so a larger
    world starts with the images of a smaller one. If the folder has the same world already, nothing
    is written.

    Args:
        folder: Must not exist, be empty, or contain the same world.
        counts: Number of images by split; missing splits have none.
        seed: Seed of images and instructions.
        progress: Called with (the split, images done, images in all).

    Raises:
        ConfigError: If a split is unknown, a number is negative, or there is no image at all.
        DatasetError: If the folder contains something else.
    """
    world = _world(counts, seed)
    if _has_world(folder, world):
        return
    with folder_in_one_step(folder) as new:
        _write(new, counts, seed, progress)
        (new / WORLD_FILE).write_text(json.dumps(world, indent=1) + "\n")


def _world(counts: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Return the content of ``world.json``: everything on which the world depends."""
    unknown = sorted(counts.keys() - RULES.keys())
    if unknown:
        raise ConfigError(
            f"writing a world of shapes: expected the splits {', '.join(RULES)}, "
            f"found {unknown[0]!r}"
        )
    if min(seed, *counts.values(), 0) < 0 or not any(counts.values()):
        raise ConfigError(
            "writing a world of shapes: expected a seed and numbers of images of at least 0, and "
            f"at least one image; found seed {seed} and {dict(counts)}"
        )
    numbers = {
        split: counts.get(split, 0) for split in RULES if split != OPTIONAL or counts.get(split, 0)
    }
    return {"world": "shapes", "version": VERSION, "seed": seed, **numbers}


def _has_world(folder: Path, world: dict[str, Any]) -> bool:
    """Return whether the folder has this world; raises DatasetError if it has something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / WORLD_FILE).read_bytes())
    except (OSError, ValueError):
        found = None
    if found == world:
        return True
    what = "something else"
    if isinstance(found, dict) and found.get("world") == "shapes":
        what = "another world: " + "; ".join(
            f"{key} is {found.get(key)} there and {value} here"
            for key, value in world.items()
            if found.get(key) != value
        )
    raise DatasetError(
        f"writing a world of shapes: {folder} already contains {what}; give a new folder, or "
        "remove this one"
    )


def _write(folder: Path, counts: Mapping[str, int], seed: int, progress: Progress) -> None:
    with ExitStack() as stack:
        files = {
            name: stack.enter_context((folder / f"{name}.jsonl").open("w")) for name in _ENTRIES
        }
        for split in RULES:
            count = counts.get(split, 0)
            if count:
                (folder / "images" / split).mkdir(parents=True)
            for index in range(count):
                _write_image(folder, files, split, index, seed)
                progress(split, index + 1, count)


def _write_image(
    folder: Path, files: Mapping[str, TextIO], split: str, index: int, seed: int
) -> None:
    rng = np.random.default_rng([SEEDS[split], seed, index])
    painted = sample_painted_scene(rng, RULES[split])
    name = f"images/{split}/{index:06d}.png"
    Image.fromarray(painted.image).save(folder / name)
    for file, entries in _ENTRIES.items():
        for entry in entries(painted, rng, split):
            line = {"image": name, "split": split, **entry}
            files[file].write(json.dumps(line) + "\n")


def _instructions(
    painted: PaintedScene, rng: np.random.Generator, split: str
) -> Iterator[dict[str, Any]]:
    instructions = sample_instructions(painted.scene, rng)
    if split == OPTIONAL:
        order = rng.permutation(len(instructions))[:NUM_PRESENT]
        instructions = [instructions[index] for index in order]
        instructions += sample_absent(painted.scene, rng, NUM_ABSENT)
    for instruction in instructions:
        mask = None
        if instruction.things:
            mask = {"rle": masks.encode(painted.mask(*instruction.things))}
        yield {
            "instruction": instruction.text,
            "kind": instruction.kind,
            "length": instruction.length,
            "topic": instruction.topic,
            "mask": mask,
        }


def _scene(painted: PaintedScene, rng: np.random.Generator, split: str) -> Iterator[dict[str, Any]]:
    things = [
        {
            "size": thing.size,
            "colour": thing.colour,
            "shape": thing.shape,
            "rle": masks.encode(painted.mask(index)),
        }
        for index, thing in enumerate(painted.scene.things)
    ]
    yield {"things": things}


# The lines of an image in each file, in this order: they draw from one generator.
_ENTRIES: dict[
    str, Callable[[PaintedScene, np.random.Generator, str], Iterator[dict[str, Any]]]
] = {
    "data": _instructions,
    "scenes": _scene,
}
