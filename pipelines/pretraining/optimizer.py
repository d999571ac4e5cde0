"""One optimiser for all stages: Muon for the matrices inside, AdamW for the rest."""

from __future__ import annotations

import math

import torch
from torch import nn

WARMUP = 100


class Optimizer:
    """Muon and AdamW under one schedule: linear warm-up, then a cosine to a tenth... of the peak."""

    def __init__(self, model: nn.Module, *, lr: float, steps: int, matrices: bool = True) -> None:
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        inner = [p for n, p in trained if matrices and p.ndim == 2 and "embed" not in n and "token" not in n and "lm_head" not in n and "classifier" not in n]
        known = {id(p) for p in inner}
        rest = [p for _, p in trained if id(p) not in known]
        self.parameters = [p for _, p in trained]
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
        ]
        if inner:
            self._optimizers.append(
                torch.optim.Muon(inner, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
            )
        self._lr, self._steps, self._step = lr, steps, 0

    def step(self) -> float:
        """Clip, update, clear; returns the norm of the gradient."""
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        factor = learning_rate_factor(self._step, self._steps)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self._lr * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self._step += 1
        return float(norm)


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear over the warm-up, then half a cosine to zero."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))
