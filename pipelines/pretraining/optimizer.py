"""One optimiser for all stages: Muon for the hidden matrices, AdamW for all other parameters."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

WARMUP = 100  # steps, or a tenth of a short training
WEIGHT_DECAY = 0.01
# Matrices that are embedding tables or output layers.
_NOT_HIDDEN = ("embed", "token", "lm_head", "classifier")


class Optimizer:
    """Muon and AdamW under one schedule, with clipped gradients.

    Attributes:
        parameters: The trained parameters.
    """

    def __init__(self, model: nn.Module, *, lr: float, steps: int) -> None:
        trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        hidden = [
            p
            for name, p in trained
            if p.ndim == 2 and not any(part in name for part in _NOT_HIDDEN)
        ]
        known = {id(p) for p in hidden}
        self.parameters = [p for _, p in trained]
        self._optimizers: tuple[Any, ...] = (
            torch.optim.Muon(
                hidden, lr=lr, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(
                [p for p in self.parameters if id(p) not in known],
                lr=lr,
                betas=(0.9, 0.98),
                weight_decay=WEIGHT_DECAY,
            ),
        )
        self._lr = lr
        self._steps = steps
        self._step = 0

    def step(self) -> None:
        """Clip the gradients, update the parameters, and clear the gradients."""
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        factor = learning_rate_factor(self._step, self._steps)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._lr * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._step += 1


def learning_rate_factor(step: int, steps: int) -> float:
    """Return the factor of a schedule with linear warm-up and half a cosine down to zero."""
    warmup = min(WARMUP, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))
