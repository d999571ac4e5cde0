"""Stage 1: LLaVA's vision tower learns words from captions, without positions.

A caption says which descriptions are true of a picture ("a red thing", "a large star"). Every patch
scores every description, a description's score for the picture is the soft maximum over patches,
and cross-entropy compares it with the caption. Which patch it is has to be found out (multiple
instance learning). Pictures of one or two things come first.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lens_cache.toy.language import ALL_LOOKS
from lens_cache.toy.scene import COLOURS, SHAPES, SIZES, Scene
from lens_cache.toy.trained_models import SHAPES_LLAVA, to_pixels
from pipelines.pretraining.scenes import Scenes

FILE = "tower.safetensors"
LOOKS = tuple(looks for looks in ALL_LOOKS if not looks.unseen)
# The share of pictures with one or two things falls to the least over this part of the training.
EASY_UNTIL, LEAST_EASY = 0.25, 0.15
NUM_MEASURED = 600


class DescribedTower(nn.Module):
    """A CLIP vision tower with a linear reading of its patches; only the tower is kept."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.norm = nn.LayerNorm(SHAPES_LLAVA.tower_width)
        self.classifier = nn.Linear(SHAPES_LLAVA.tower_width, len(LOOKS))
        # So that the soft maximum over all patches begins as a rare "yes".
        nn.init.constant_(self.classifier.bias, -6.0)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logit of every description for each picture, shape (B, len(LOOKS))."""
        states = self.norm(patches(self.tower, pixels))
        scores: Tensor = self.classifier(states).float().logsumexp(dim=1)
        return scores


class TowerStage:
    """Trains the tower."""

    name = "tower"

    def __init__(self, tower: nn.Module, scenes: Path, folder: Path, device: torch.device) -> None:
        self.model = DescribedTower(tower).to(device)
        self._device = device
        self._easy, self._train, self._val = (
            Scenes(scenes / split) for split in ("easy", "train", "val")
        )
        self._path = folder / FILE

    def loss(self, rng: np.random.Generator, count: int, done: float) -> Tensor:
        """See ``Stage``."""
        num_easy = round(count * max(LEAST_EASY, 1 - done / EASY_UNTIL))
        squares, truths = [], []
        for scenes, number in ((self._easy, num_easy), (self._train, count - num_easy)):
            chosen = np.sort(rng.integers(len(scenes), size=number))
            squares.append(scenes.squares[chosen])
            truths.append(true_looks([scenes.scenes[index] for index in chosen]))
        pictures = np.concatenate(squares)
        mirrored = rng.random(count) < 0.5
        pictures[mirrored] = pictures[mirrored, :, ::-1]
        with torch.autocast(self._device.type, torch.bfloat16):
            logits = self.model(to_pixels(pictures).to(self._device))
        wanted = torch.from_numpy(np.concatenate(truths)).float()
        return F.binary_cross_entropy_with_logits(logits, wanted.to(self._device))

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return how well single patches tell colour, shape and size by a linear reading.

        The masks serve this measurement alone. The reading is fitted on two thirds of the scenes.
        """
        states, truths, scene = [], [], []
        for start in range(0, min(NUM_MEASURED, len(self._val)), 50):
            pixels = to_pixels(self._val.squares[start : start + 50]).to(self._device)
            with torch.autocast(self._device.type, torch.bfloat16):
                found = self.model.norm(patches(self.model.tower, pixels))
            for offset, picture in enumerate(found.float().cpu().numpy()):
                index = start + offset
                shown = shown_things(self._val.owner[index], round(len(picture) ** 0.5))
                for cell in np.flatnonzero(shown >= 0):
                    thing = self._val.scenes[index].things[shown[cell]]
                    states.append(np.append(picture[cell], 1))
                    truths.append(
                        (
                            COLOURS.index(thing.colour),
                            SHAPES.index(thing.shape),
                            SIZES.index(thing.size),
                        )
                    )
                    scene.append(index)
        return probe(np.array(states), np.array(truths), np.array(scene) % 3 > 0)

    def save(self) -> None:
        """Write the tower's weights."""
        save_file(self.model.tower.state_dict(), self._path)


def load_tower(tower: nn.Module, folder: Path) -> None:
    """Fill a tower with what the stage has saved."""
    tower.load_state_dict(load_file(folder / FILE))


def patches(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Return the states of a tower's patches, shape (B, N, d)."""
    states: Tensor = tower(pixel_values=pixels).last_hidden_state[:, 1:]
    return states


def true_looks(scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """Return which descriptions are true of each scene, shape (B, len(LOOKS))."""
    return np.array(
        [[any(looks.fits(thing) for thing in scene.things) for looks in LOOKS] for scene in scenes]
    ).reshape(-1, len(LOOKS))


def shown_things(owner: NDArray[np.int8], cells: int) -> NDArray[np.int64]:
    """Return which thing covers most of each cell, -1 where things cover less than a third."""
    edges = np.linspace(0, len(owner), cells + 1).round().astype(int)
    shown = np.full((cells, cells), -1)
    for row, column in np.ndindex(cells, cells):
        cell = owner[edges[row] : edges[row + 1], edges[column] : edges[column + 1]].ravel()
        things = cell[cell >= 0]
        if 3 * len(things) >= len(cell):
            shown[row, column] = np.bincount(things).argmax()
    return shown.ravel()


def probe(
    states: NDArray[np.float32], truths: NDArray[np.int64], fitted: NDArray[np.bool_]
) -> dict[str, float]:
    """Fit a ridge regression to some states and return how often it is right on the others."""
    right = {}
    for column, name in enumerate(("colour", "shape", "size")):
        wanted = np.eye(truths[:, column].max() + 1)[truths[fitted, column]]
        x = states[fitted].astype(np.float64)
        weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ wanted)
        right[name] = (states[~fitted] @ weights).argmax(axis=1) == truths[~fitted, column]
    right["colour and shape"] = right["colour"] & right["shape"]
    return {name: float(values.mean()) for name, values in right.items()}
