"""A world of shapes on disk, in the layout of the ``jsonl`` dataset.

FOLDER/images/SPLIT/000000.png    the pictures; splits train, val, test and hard
FOLDER/data.jsonl                 instructions with their masks: what LENS learns from
FOLDER/scenes.jsonl               every thing of every picture with its visible mask
FOLDER/negatives.jsonl            what asks for no mask, or for one of a thing that is not there
FOLDER/world.json                 what the world was made of
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from lens_cache.errors import ConfigError, DatasetError
from lens_cache.images import masks
from lens_cache.store.io.files import publish_folder
from lens_cache.toy.drawing import Picture, sample_picture
from lens_cache.toy.instructions import sample_absent, sample_instructions
from lens_cache.toy.questions import sample_questions
from lens_cache.toy.scene import HARD, STANDARD

RULES = {"train": STANDARD, "val": STANDARD, "test": STANDARD, "hard": HARD}
# First number of a picture's seed. The scenes that the MLLM and SAM were trained on begin with 101
# to 103, so no world, whatever its seed, repeats one of them.
SEEDS = {"train": 1011, "val": 1012, "test": 1013, "hard": 1014}
WORLD_FILE = "world.json"
# To be raised when the same arguments give other files than before.
VERSION = 1
DIALOGUES = 2

Progress = Callable[[str, int, int], None]


def write_world(
    folder: Path, counts: Mapping[str, int], *, seed: int = 0, progress: Progress | None = None
) -> None:
    """Write a world of shapes; the folder appears as a whole or not at all.

    The same arguments give the same bytes, and a picture follows from seed, split and index alone:
    a larger world begins with the pictures of a smaller one. A folder that holds the same world is
    left alone.

    Args:
        folder: Must not exist, be empty, or hold the same world.
        counts: Number of pictures by split; a split that is not named has none.
        seed: Decides the pictures and all that is said of them.
        progress: Called with the split, pictures done and in all.

    Raises:
        ConfigError: If a split is unknown, a number is negative or there is no picture at all.
        DatasetError: If the folder holds something else.
    """
    world = _world(counts, seed)
    if _holds(folder, world):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".shapes.") as temporary:
        new = Path(temporary) / "world"
        new.mkdir()
        _write(new, counts, seed, progress or (lambda *_: None))
        (new / WORLD_FILE).write_text(json.dumps(world, indent=1) + "\n")
        publish_folder(new, folder)


def _world(counts: Mapping[str, int], seed: int) -> dict[str, Any]:
    """Return what stands in ``world.json``: everything that the world follows from."""
    unknown = sorted(counts.keys() - RULES.keys())
    if unknown:
        raise ConfigError(
            f"writing a world of shapes: expected the splits {', '.join(RULES)}, "
            f"found {unknown[0]!r}"
        )
    if min(seed, *counts.values(), 0) < 0 or not any(counts.values()):
        raise ConfigError(
            "writing a world of shapes: expected a seed and numbers of pictures of at least 0, and "
            f"a picture in some split; found seed {seed} and {dict(counts)}"
        )
    numbers = {split: counts.get(split, 0) for split in RULES}
    return {"world": "shapes", "version": VERSION, "seed": seed, **numbers}


def _holds(folder: Path, world: dict[str, Any]) -> bool:
    """Tell whether the folder holds this world; raise DatasetError if it holds something else."""
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
        what = "another one: " + "; ".join(
            f"{key} is {found.get(key)} there and {value} here"
            for key, value in world.items()
            if found.get(key) != value
        )
    raise DatasetError(
        f"writing a world of shapes: {folder} already holds {what}; give a new folder, or remove "
        "this one"
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
                _write_picture(folder, files, split, index, seed)
                progress(split, index + 1, count)


def _write_picture(
    folder: Path, files: Mapping[str, TextIO], split: str, index: int, seed: int
) -> None:
    rng = np.random.default_rng([SEEDS[split], seed, index])
    picture = sample_picture(rng, RULES[split])
    name = f"images/{split}/{index:06d}.png"
    Image.fromarray(picture.image).save(folder / name)
    for file, entries in _ENTRIES.items():
        for entry in entries(picture, rng):
            line = {"image": name, "split": split, **entry}
            files[file].write(json.dumps(line) + "\n")


def _instructions(picture: Picture, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for instruction in sample_instructions(picture.scene, rng):
        yield {
            "instruction": instruction.text,
            "kind": instruction.kind,
            "length": instruction.length,
            "topic": instruction.topic,
            "mask": {"rle": masks.encode(picture.mask(*instruction.things))},
        }


def _scene(picture: Picture, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    things = [
        {
            "size": thing.size,
            "colour": thing.colour,
            "shape": thing.shape,
            "rle": masks.encode(picture.mask(index)),
        }
        for index, thing in enumerate(picture.scene.things)
    ]
    yield {"things": things}


def _negatives(picture: Picture, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    for question in sample_questions(picture.scene, rng, DIALOGUES):
        yield {"text": question.text, "intent": "dialogue", "answer": question.answer}
    yield {"text": sample_absent(picture.scene, rng), "intent": "absent", "answer": None}


# What is written of a picture, in this order: they draw from one generator.
_ENTRIES: dict[str, Callable[[Picture, np.random.Generator], Iterator[dict[str, Any]]]] = {
    "data": _instructions,
    "scenes": _scene,
    "negatives": _negatives,
}
