"""Stage 1: LLaVA's vision tower learns words from captions, without positions.

A caption says which descriptions are true of a picture ("a red thing", "a large star"). Every patch
scores every description, a description's score for the picture is the soft maximum over patches,
and cross-entropy compares it with the caption. Which patch it is has to be found out (multiple
instance learning).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lens_cache.datasets.shapes.language import ALL_LOOKS
from lens_cache.datasets.shapes.scene import UNSEEN_PAIRS, Scene

LOOKS = tuple(l for l in ALL_LOOKS if (l.colour, l.shape) not in UNSEEN_PAIRS)


class Tower(nn.Module):
    """A CLIP vision tower with a linear reading of its patches."""

    def __init__(self, tower: nn.Module, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, len(LOOKS))
        nn.init.constant_(self.classifier.bias, -6.0)

    def features(self, pixels):
        return self.tower(pixel_values=pixels).last_hidden_state[:, 1:]

    def forward(self, pixels):
        return self.classifier(self.norm(self.features(pixels))).float().logsumexp(dim=1)


def true_looks(scene: Scene) -> np.ndarray:
    """Return which descriptions are true of a scene, float32, shape (len(LOOKS),)."""
    return np.array([any(l.fits(t) for t in scene.things) for l in LOOKS], dtype=np.float32)
