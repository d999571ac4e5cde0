"""Stage 1: LLaVA's vision tower learns words from captions, without positions.

A caption lists the descriptions that are true of an image ("a red thing", "a large star"). Every
patch scores every description; the score of the image is the soft maximum over its patches, and is
compared with the caption by cross-entropy. The model has to find the patch by itself (multiple
instance learning). Images of one or two things come first.
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
# The share of images with one or two things falls from 1 to ``LEAST_EASY`` over this part of the
# training.
EASY_UNTIL = 0.25
LEAST_EASY = 0.15
NUM_MEASURED = 600


class DescribedTower(nn.Module):
    """A CLIP vision tower with a linear classifier of its patches; only the tower is saved."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower
        self.norm = nn.LayerNorm(SHAPES_LLAVA.tower_width)
        self.classifier = nn.Linear(SHAPES_LLAVA.tower_width, len(LOOKS))
        # A low bias, so that the soft maximum over all patches is rarely a "yes" at the start.
        nn.init.constant_(self.classifier.bias, -6.0)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logit of every description for each image, shape (B, len(LOOKS))."""
        states = self.norm(patches(self.tower, pixels))
        scores: Tensor = self.classifier(states).float().logsumexp(dim=1)
        return scores


class TowerStage:
    """Trains the tower."""

    name = "tower"

    def __init__(self, tower: nn.Module, scenes: Path, folder: Path, device: torch.device) -> None:
        self.model = DescribedTower(tower).to(device)
        self._device = device
        self._easy = Scenes(scenes / "easy")
        self._train = Scenes(scenes / "train")
        self._val = Scenes(scenes / "val")
        self._path = folder / FILE

    def loss(self, rng: np.random.Generator, count: int, done: float) -> Tensor:
        """See ``Stage``."""
        num_easy = round(count * max(LEAST_EASY, 1 - done / EASY_UNTIL))
        squares, truths = [], []
        for scenes, number in ((self._easy, num_easy), (self._train, count - num_easy)):
            chosen = np.sort(rng.integers(len(scenes), size=number))
            squares.append(scenes.squares[chosen])
            truths.append(true_looks([scenes.scenes[index] for index in chosen]))
        images = np.concatenate(squares)
        mirrored = rng.random(count) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
        with torch.autocast(self._device.type, torch.bfloat16):
            logits = self.model(to_pixels(images).to(self._device))
        wanted = torch.from_numpy(np.concatenate(truths)).float()
        return F.binary_cross_entropy_with_logits(logits, wanted.to(self._device))

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the accuracy of a linear probe of single patches for colour, shape and size.

        Masks are used only for this measurement. The probe is fitted on two thirds of the scenes.
        """
        states, truths, scene = [], [], []
        for start in range(0, min(NUM_MEASURED, len(self._val)), 50):
            pixels = to_pixels(self._val.squares[start : start + 50]).to(self._device)
            with torch.autocast(self._device.type, torch.bfloat16):
                found = self.model.norm(patches(self.model.tower, pixels))
            for offset, image in enumerate(found.float().cpu().numpy()):
                index = start + offset
                shown = shown_things(self._val.owner[index], round(len(image) ** 0.5))
                for cell in np.flatnonzero(shown >= 0):
                    thing = self._val.scenes[index].things[shown[cell]]
                    states.append(np.append(image[cell], 1))
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
    """Load the weights of a tower that the stage has saved."""
    tower.load_state_dict(load_file(folder / FILE))


def patches(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Return the states of a tower's patches, shape (B, N, d)."""
    states: Tensor = tower(pixel_values=pixels).last_hidden_state[:, 1:]
    return states


def true_looks(scenes: Sequence[Scene]) -> NDArray[np.bool_]:
    """Return which descriptions are true of each scene, bool, shape (B, len(LOOKS))."""
    return np.array(
        [[any(looks.fits(thing) for thing in scene.things) for looks in LOOKS] for scene in scenes]
    ).reshape(-1, len(LOOKS))


def shown_things(owner: NDArray[np.int8], cells: int) -> NDArray[np.int64]:
    """Return the thing that covers most of each cell, or -1 if things cover less than a third.

    Args:
        owner: Index of the visible thing of each pixel, negative for background, shape (H, W).
        cells: Number of cells per row and column.

    Returns:
        Shape (cells * cells,), row by row.
    """
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
    """Fit a ridge regression to some states and return its accuracy on the others.

    Args:
        states: Shape (n, d).
        truths: Class indices of colour, shape and size, shape (n, 3).
        fitted: The states to fit, bool, shape (n,).
    """
    right = {}
    for column, name in enumerate(("colour", "shape", "size")):
        wanted = np.eye(truths[:, column].max() + 1)[truths[fitted, column]]
        x = states[fitted].astype(np.float64)
        weights = np.linalg.solve(x.T @ x + 10 * np.eye(x.shape[1]), x.T @ wanted)
        right[name] = (states[~fitted] @ weights).argmax(axis=1) == truths[~fitted, column]
    right["colour and shape"] = right["colour"] & right["shape"]
    return {name: float(values.mean()) for name, values in right.items()}
