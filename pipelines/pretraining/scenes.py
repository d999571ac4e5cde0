"""The scenes on which the two tiny models are trained, stored as arrays on disk."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_cache.progress import Progress
from lens_cache.toy.drawing import sample_painted_scene
from lens_cache.toy.scene import SIDE, STANDARD, Rules, Scene, Thing

# Seeds that no world uses; see ``lens_cache.toy.world.SEEDS``.
SEEDS = {"easy": 101, "train": 102, "val": 103}
EASY = Rules(things=(1, 2), kinds=(1, 2))
RULES = {"easy": EASY, "train": STANDARD, "val": STANDARD}
CHUNK = 500


class Scenes:
    """Painted scenes of one split.

    Attributes:
        scenes: Their content.
        images: RGB for SAM, uint8, shape (n, SIDE, SIDE, 3).
        squares: The same in LLaVA's size, uint8, shape (n, side, side, 3).
        owner: Index of the visible thing of each pixel, int8, shape (n, SIDE, SIDE); only SAM is
            trained with it.
    """

    def __init__(self, folder: Path) -> None:
        lines = (folder / "scenes.jsonl").read_text().splitlines()
        self.scenes = [_from_json(line) for line in lines]
        self.images: NDArray[np.uint8] = np.load(folder / "images.npy", mmap_mode="r")
        self.squares: NDArray[np.uint8] = np.load(folder / "squares.npy", mmap_mode="r")
        self.owner: NDArray[np.int8] = np.load(folder / "owner.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.scenes)


def write_scenes(folder: Path, split: str, count: int, side: int, progress: Progress) -> None:
    """Write ``count`` scenes of a split to a folder; ``side`` is LLaVA's input size in pixels."""
    folder.mkdir(parents=True)
    shape = (count, SIDE, SIDE)
    arrays = {
        "images": _create(folder / "images.npy", np.uint8, (*shape, 3)),
        "squares": _create(folder / "squares.npy", np.uint8, (count, side, side, 3)),
        "owner": _create(folder / "owner.npy", np.int8, shape),
    }
    starts = range(0, count, CHUNK)
    with (
        ProcessPoolExecutor(mp_context=get_context("spawn")) as pool,
        (folder / "scenes.jsonl").open("w") as file,
    ):
        jobs = [
            pool.submit(_paint, split, start, min(CHUNK, count - start), side) for start in starts
        ]
        for start, job in zip(starts, jobs, strict=True):
            lines, images, squares, owner = job.result()
            end = start + len(lines)
            arrays["images"][start:end] = images
            arrays["squares"][start:end] = squares
            arrays["owner"][start:end] = owner
            file.writelines(line + "\n" for line in lines)
            progress(f"scenes, {split}", end, count)


def _create(path: Path, dtype: type, shape: tuple[int, ...]) -> Any:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def _paint(
    split: str, start: int, count: int, side: int
) -> tuple[list[str], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int8]]:
    painted = [
        sample_painted_scene(np.random.default_rng([SEEDS[split], index]), RULES[split])
        for index in range(start, start + count)
    ]
    squares = [
        np.asarray(Image.fromarray(p.image).resize((side, side), Image.Resampling.BICUBIC))
        for p in painted
    ]
    return (
        [json.dumps(asdict(p.scene)) for p in painted],
        np.stack([p.image for p in painted]),
        np.stack(squares),
        np.stack([p.owner for p in painted]),
    )


def _from_json(line: str) -> Scene:
    entry = json.loads(line)
    return Scene(things=tuple(Thing(**thing) for thing in entry["things"]), seed=entry["seed"])
