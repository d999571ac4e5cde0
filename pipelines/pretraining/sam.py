"""Stage 2: SAM learns to segment from points inside and outside of the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lens_cache.training.losses import dice_loss
from pipelines.pretraining.scenes import Scenes

FILE = "sam.pth"
PROMPTS = 6  # per image
MAX_POINTS = 6
SINGLE_SHARE = 0.7  # share of prompts with one target thing; the others have two to four
OTHER_THING_SHARE = 0.7  # share of negative points on other things; the others are on background
BCE_WEIGHT = 4.0
QUALITY_WEIGHT = 0.5
NUM_MEASURED = 96
# SAM's labels of points.
POSITIVE = 1
NEGATIVE = 0
ABSENT = -1


@dataclass(frozen=True)
class Prompts:
    """Point prompts on one image.

    Attributes:
        points: (x, y) in pixels, float32, shape (Q, p, 2).
        labels: ``POSITIVE`` (inside), ``NEGATIVE`` (outside) or ``ABSENT`` (no point), float32,
            shape (Q, p).
        masks: Target masks, bool, shape (Q, H, W).
    """

    points: Tensor
    labels: Tensor
    masks: Tensor


class SamStage:
    """Trains all modules of SAM."""

    name = "sam"

    def __init__(self, sam: Any, scenes: Path, folder: Path, device: torch.device) -> None:
        self.model: Any = sam.to(device)
        self._device = device
        _initialise(sam)
        self._train = Scenes(scenes / "train")
        self._val = Scenes(scenes / "val")
        self._path = folder / FILE

    def loss(self, rng: np.random.Generator, count: int, done: float) -> Tensor:
        """See ``Stage``."""
        chosen = np.sort(rng.integers(len(self._train), size=count))
        prompts = [sample_prompts(self._train.owner[index], rng) for index in chosen]
        logits, quality, masks = self._forward(self._train.images[chosen], prompts)
        right = overlap(logits, masks)
        return (
            dice_loss(logits, masks).mean()
            + BCE_WEIGHT * F.binary_cross_entropy_with_logits(logits, masks.float())
            + QUALITY_WEIGHT * F.mse_loss(quality, right)
        )

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the mean IoU with 1 point inside, 3 inside, and 3 inside plus 3 outside."""
        found = {}
        for name, inside, outside in (("1 point", 1, 0), ("3 points", 3, 0), ("3 + 3", 3, 3)):
            rng, values = np.random.default_rng(0), []
            for start in range(0, min(NUM_MEASURED, len(self._val)), 8):
                batch = slice(start, start + 8)
                prompts = [
                    sample_prompts(owner, rng, (inside, inside), (outside, outside))
                    for owner in self._val.owner[batch]
                ]
                logits, _, masks = self._forward(self._val.images[batch], prompts)
                values.append(overlap(logits, masks))
            found[f"IoU, {name}"] = float(torch.cat(values).mean())
        return found

    def save(self) -> None:
        """Write a segment-anything checkpoint, in float16."""
        state = self.model.state_dict()
        torch.save({name: weight.half().cpu() for name, weight in state.items()}, self._path)

    def _forward(
        self, images: NDArray[np.uint8], prompts: Sequence[Prompts]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits in the size of the images, predicted IoU, and target masks.

        Shapes (Q, H, W), (Q,) and (Q, H, W), with Q prompts of all images.
        """
        sam = self.model
        device = self._device
        pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float().to(device)
        with torch.autocast(device.type, torch.bfloat16):
            embeddings = sam.image_encoder(sam.preprocess(pixels))
            answers = []
            for embedding, prompt in zip(embeddings, prompts, strict=True):
                sparse, dense = sam.prompt_encoder(
                    (prompt.points.to(device), prompt.labels.to(device)), None, None
                )
                answers.append(
                    sam.mask_decoder(
                        image_embeddings=embedding[None],
                        image_pe=sam.prompt_encoder.get_dense_pe(),
                        sparse_prompt_embeddings=sparse,
                        dense_prompt_embeddings=dense,
                        multimask_output=False,
                    )
                )
        logits = torch.cat([answer[0] for answer in answers]).float()
        quality = torch.cat([answer[1][:, 0] for answer in answers]).float()
        size = images.shape[1:3]
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)[:, 0]
        return logits, quality, torch.cat([prompt.masks for prompt in prompts]).to(device)


def sample_prompts(
    owner: NDArray[np.int8],
    rng: np.random.Generator,
    inside: tuple[int, int] = (1, 3),
    outside: tuple[int, int] = (0, 3),
) -> Prompts:
    """Return ``PROMPTS`` random prompts on an image.

    Args:
        owner: Index of the visible thing of each pixel, negative for background, shape (H, W).
        rng: Draws things and points.
        inside: Least and greatest number of points inside; each target thing has at least one.
        outside: Least and greatest number of points outside.
    """
    points = np.zeros((PROMPTS, MAX_POINTS, 2), dtype=np.float32)
    labels = np.full((PROMPTS, MAX_POINTS), ABSENT, dtype=np.float32)
    masks = np.zeros((PROMPTS, *owner.shape), dtype=bool)
    present = np.unique(owner[owner >= 0])
    for q in range(PROMPTS):
        several = len(present) > 1 and rng.random() >= SINGLE_SHARE
        number = int(rng.integers(2, min(4, len(present)) + 1)) if several else 1
        things = rng.choice(present, size=number, replace=False)
        masks[q] = np.isin(owner, things)
        count = max(number, int(rng.integers(inside[0], inside[1] + 1)))
        regions = [owner == thing for thing in things] + [masks[q]] * (count - number)
        others = (owner >= 0) & ~masks[q]
        for _ in range(min(int(rng.integers(outside[0], outside[1] + 1)), MAX_POINTS - count)):
            on_thing = others.any() and rng.random() < OTHER_THING_SHARE
            regions.append(others if on_thing else owner < 0)
        for place, region in enumerate(regions):
            rows, columns = np.nonzero(region)
            pixel = rng.integers(len(rows))
            points[q, place] = columns[pixel] + 0.5, rows[pixel] + 0.5
            labels[q, place] = POSITIVE if place < count else NEGATIVE
    return Prompts(torch.from_numpy(points), torch.from_numpy(labels), torch.from_numpy(masks))


@torch.no_grad()
def overlap(logits: Tensor, masks: Tensor) -> Tensor:
    """Return the IoU of predictions and target masks, shapes (Q, H, W), as shape (Q,)."""
    found = logits > 0
    union = (found | masks).flatten(1).sum(dim=1)
    return (found & masks).flatten(1).sum(dim=1) / union.clamp(min=1)


def _initialise(sam: Any) -> None:
    """Initialise the position embeddings, which segment-anything leaves at zero."""
    nn.init.trunc_normal_(sam.image_encoder.pos_embed, std=0.02)
    for block in sam.image_encoder.blocks:
        nn.init.trunc_normal_(block.attn.rel_pos_h, std=0.02)
        nn.init.trunc_normal_(block.attn.rel_pos_w, std=0.02)
