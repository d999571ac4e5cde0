"""AdamW with LISA's schedule, its moments in float32 or in 8 bits."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lens_cache.config.train import OptimizerConfig
from lens_cache.errors import ConfigError


def build_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerConfig, *, fused: bool = True
) -> Optimizer:
    """Return AdamW over the parameters that require a gradient.

    Args:
        parameters: All parameters of a model.
        settings: The settings.
        fused: Use one kernel for the step. Not for ``16-mixed``: the kernel would unscale the
            gradients itself, after they are clipped.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    shared: dict[str, Any] = {
        "lr": settings.lr,
        "betas": settings.betas,
        "weight_decay": settings.weight_decay,
    }
    if settings.states == "float32":
        return torch.optim.AdamW(trained, fused=fused, **shared)
    optimizer: Optimizer = _adamw_8bit()(trained, **shared)
    return optimizer


def learning_rate_factor(step: int, max_steps: int, settings: OptimizerConfig) -> float:
    """Return the factor of the learning rate at an optimizer step.

    Linear from 0 over the warm-up, then linear to 0 at the end (LISA's WarmupDecayLR), or constant.
    """
    if step < settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.decay == "constant":
        return 1.0
    left = max_steps - step
    return max(0.0, left / max(1, max_steps - settings.warmup_steps))


def require_states(settings: OptimizerConfig) -> None:
    """Refuse 8-bit states if their package is missing.

    Raises:
        ConfigError: If bitsandbytes is not installed.
    """
    if settings.states == "8bit" and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "choosing the optimizer: optimizer.states=8bit needs the package bitsandbytes, which "
            "is not installed; run `pip install 'lens-cache[8bit]'`, or set "
            "optimizer.states=float32"
        )


def _adamw_8bit() -> Any:
    return import_module("bitsandbytes.optim").AdamW8bit  # imported late: it loads CUDA's libraries
