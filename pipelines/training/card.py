"""Batches that use the memory of the GPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lens_cache.config.train import TrainConfig, TrainerConfig
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.plan.plan import Plan
from lens_cache.training.fit_memory import fit_batch


def with_fitting_batches(
    config: TrainConfig, plan: Plan, frozen: FrozenParts, tell: Callable[[str], None]
) -> TrainConfig:
    """Return settings with as few batches in a step as the memory of the GPU allows.

    Args:
        config: The settings.
        plan: Plan of the store.
        frozen: Its frozen parts.
        tell: Receives a line if batches change.
    """
    card = _smallest_card(config.trainer)
    if card is None or not config.batch.fit_memory:
        return config
    before = config.batch
    pixels = _pixels(plan) if config.loss.mask_size is None else config.loss.mask_size**2
    batch = fit_batch(before, card.total_memory, config.model, config.optimizer, frozen, pixels)
    if batch != before:
        tell(
            f"a step has {batch.accumulate} x {batch.images} images on {card.name} "
            f"({card.total_memory / 1e9:.0f} GB) instead of {before.accumulate} x {before.images}; "
            "batch.fit_memory=false keeps the settings"
        )
    return dataclasses.replace(config, batch=batch)


def _pixels(plan: Plan) -> int:
    """Return the size of an image that only one in a hundred exceeds."""
    width, height = (plan.images[name].to_numpy() for name in ("width", "height"))
    return int(np.quantile(width.astype(np.int64) * height, 0.99))


def _smallest_card(settings: TrainerConfig) -> Any:
    """Return the properties of this machine's GPU with the least memory.

    Returns None without a GPU, and with several machines: their processes must agree.
    """
    if settings.accelerator == "cpu" or settings.num_nodes > 1:
        return None
    cards = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    return min(cards, key=lambda card: card.total_memory, default=None)
