"""The losses of LENS (paper eq. 5 to 7), always computed in float32.

Dice and cross-entropy are LISA's: they take logits, average over the pixels of each mask, then over
masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lens_cache.config.train import LossConfig, TrainConfig
from lens_cache.errors import ConfigError
from lens_cache.features.types import LensOutput
from lens_cache.images.geometry import Convention, logits_to_image, resize_map
from lens_cache.training.targets import Targets

DICE_EPSILON = 1e-6
DICE_SCALE = 1000.0  # LISA divides all sums by it, so it sets the weight of DICE_EPSILON.


@dataclass(frozen=True)
class Losses:
    """The weighted sum of eq. 7 and its unweighted parts, scalars: means over Q questions.

    Attributes:
        total: Eq. 7.
        dice: Dice loss of the masks.
        bce: Binary cross-entropy of the masks.
        attention: L_attn, eq. 5.
        each: Dice, BCE and attention loss of each question, detached, shape (Q, 3).
    """

    total: Tensor
    dice: Tensor
    bce: Tensor
    attention: Tensor
    each: Tensor


class LensLoss(nn.Module):
    """The overall objective, eq. 7.

    Args:
        config: Weights and resolutions.
        side: Side of the square in pixels (1024); masks at image resolution need it.
    """

    def __init__(self, config: LossConfig, *, side: int) -> None:
        super().__init__()
        self.config = config
        self.side = side

    def forward(self, segmentation: LensOutput, targets: Targets) -> Losses:
        """Compare Q answers with their targets.

        Raises:
            ValueError: If the number of targets is not that of the answers, or the masks do not
                have the resolution of ``mask_size``.
        """
        logits = segmentation.low_res_logits
        if not len(logits) == len(targets.masks) == len(targets.attention) > 0:
            raise ValueError(
                f"expected as many targets as answers, at least one; got {len(logits)} answers, "
                f"{len(targets.masks)} masks and {len(targets.attention)} attention targets"
            )
        if self.config.mask_size is None:
            dice, bce = self._at_image_resolution(logits, targets)
        else:
            dice, bce = self._in_square(logits, targets, self.config.mask_size)
        attention = attention_loss(
            segmentation.grounding_map,
            targets.attention,
            targets.attention_valid,
            coordinates=segmentation.coordinates,
        )
        each = torch.stack([dice, bce, attention], dim=1).detach()
        dice, bce, attention = dice.mean(), bce.mean(), attention.mean()
        total = self.config.dice * dice + self.config.bce * bce + self.config.attention * attention
        return Losses(total=total, dice=dice, bce=bce, attention=attention, each=each)

    def _at_image_resolution(self, logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        dice, bce = [], []
        for row, mask, valid in zip(logits, targets.masks, targets.valid, strict=True):
            height, width = mask.shape
            full = logits_to_image(row, width=width, height=height, side=self.side)
            dice.append(dice_loss(full[None], mask[None], valid[None]))
            bce.append(mask_bce_loss(full[None], mask[None], valid[None]))
        return torch.cat(dice), torch.cat(bce)

    def _in_square(self, logits: Tensor, targets: Targets, size: int) -> tuple[Tensor, Tensor]:
        shapes = {tuple(mask.shape) for mask in (*targets.masks, *targets.valid)}
        if shapes != {(size, size)}:
            raise ValueError(
                f"mask_size is {size}: expected masks and valid of shape ({size}, {size}), found "
                f"{sorted(shapes)}"
            )
        masks, valid = torch.stack(list(targets.masks)), torch.stack(list(targets.valid))
        resized = F.interpolate(
            logits[:, None].float(), (size, size), mode="bilinear", align_corners=False
        )[:, 0]
        return dice_loss(resized, masks, valid), mask_bce_loss(resized, masks, valid)


def require_smooth(config: TrainConfig, grid: tuple[int, int]) -> None:
    """Refuse an attention loss in which a wrong peak outweighs all other cells.

    At the resolution of the grid nothing smooths the map, so a wrong peak gets the full gradient of
    eq. 5, 1 / (headroom - 1) times that of another cell. On the world of shapes this diverges.

    Raises:
        ConfigError: If ``loss.attention_size`` is below twice the grid and the headroom is small.
    """
    least = 2 * max(grid)
    sharp = config.model.attention_normalisation == "peak" and config.model.peak_headroom < 1.5
    if config.loss.attention and sharp and config.loss.attention_size < least:
        raise ConfigError(
            f"setting up the attention loss: expected loss.attention_size of at least {least}, "
            f"twice the grid, found {config.loss.attention_size}; raise it, or set "
            "model.peak_headroom=1.5"
        )


def attention_loss(
    grounding_map: Tensor,
    target: Tensor,
    valid: Tensor | None = None,
    *,
    coordinates: Convention = "centre",
) -> Tensor:
    """Return L_attn, eq. 5: plain binary cross-entropy on probabilities.

    Args:
        grounding_map: Normalised A_c^1 in [0, 1], shape (Q, rows, columns).
        target: Masks in the square, bool, shape (Q, s, s). The map is resized to s x s.
        valid: Pixels that are compared, bool, shape (Q, s, s); all if None.
        coordinates: Where the cells of the map are; ``corner`` is the released code's.

    Returns:
        The mean over each map's pixels, shape (Q,).
    """
    with torch.autocast(grounding_map.device.type, enabled=False):
        values = _at_least_float32(grounding_map)
        size = (target.shape[1], target.shape[2])
        upsampled = resize_map(values, size, coordinates)
        # On a GPU, PyTorch ends the process if a probability is NaN: compute without, return NaN.
        loss = F.binary_cross_entropy(
            upsampled.nan_to_num(nan=0.5).clamp(0, 1), target.to(values.dtype), reduction="none"
        )
        finite = values.flatten(1).isfinite().all(dim=1)
        return torch.where(finite, _mean_over(loss, valid), torch.nan)


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return LISA's dice loss of the sigmoid of the logits.

    Args:
        logits: Shape (Q, H, W).
        target: Bool, shape (Q, H, W).
        valid: Pixels that are compared, bool, shape (Q, H, W); all if None.

    Returns:
        The loss of each mask, shape (Q,); 0 for an empty target with an empty prediction.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probability = _at_least_float32(logits).sigmoid()
        truth = target.to(probability.dtype)
        if valid is not None:
            probability, truth = probability * valid, truth * valid
        probability, truth = probability.flatten(1), truth.flatten(1)
        numerator = 2 * (probability * truth / DICE_SCALE).sum(dim=1)
        denominator = (probability / DICE_SCALE).sum(dim=1) + (truth / DICE_SCALE).sum(dim=1)
        return 1 - (numerator + DICE_EPSILON) / (denominator + DICE_EPSILON)


def mask_bce_loss(logits: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy of logits, the mean over each mask's pixels, shape (Q,).

    Args:
        logits: Shape (Q, H, W).
        target: Bool, shape (Q, H, W).
        valid: Pixels that are compared, bool, shape (Q, H, W); all if None.
    """
    with torch.autocast(logits.device.type, enabled=False):
        values = _at_least_float32(logits)
        loss = F.binary_cross_entropy_with_logits(values, target.to(values.dtype), reduction="none")
        return _mean_over(loss, valid)


def _mean_over(loss: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean over the valid pixels of each map, shape (Q,); both (Q, H, W)."""
    if valid is None:
        return loss.flatten(1).mean(dim=1)
    compared = valid.flatten(1)
    return (loss.flatten(1) * compared).sum(dim=1) / compared.sum(dim=1).clamp(min=1)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
