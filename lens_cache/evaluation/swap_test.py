"""The swap test: one image, two instructions about different things, two masks.

A model that ignores the instruction returns the same mask twice and passes no pair, whatever its
IoU.
"""

from __future__ import annotations

from torch import Tensor


def swap_test(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Test every pair of instructions about an image with targets that share no pixel.

    An instruction without a target is in no pair, since a right answer to it fits no target.

    A pair passes if each of the two masks has a higher IoU with its own target than with the
    other's.

    Args:
        predictions: Predicted masks of Q instructions, bool, shape (Q, H, W).
        targets: True masks, bool, shape (Q, H, W).

    Returns:
        The pairs (i, j), i < j, int64, shape (n, 2), and which of them pass, bool, shape (n,).
    """
    found, meant = predictions.flatten(1).double(), targets.flatten(1).double()
    shared = found @ meant.T
    iou = shared / (found.sum(1)[:, None] + meant.sum(1) - shared).clamp(min=1)
    own = iou.diagonal()[:, None] > iou  # own[i, j]: mask i fits its own target better than j's
    there = meant.any(dim=1)
    apart = ((meant @ meant.T == 0) & there & there[:, None]).triu(diagonal=1)
    pairs = apart.nonzero()
    return pairs, (own & own.T)[apart]
