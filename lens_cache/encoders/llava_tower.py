"""LLaVA's vision tower and projector, run only as far as the projector reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def truncate_tower(model: Any) -> None:
    """Delete the layers of a ``LlavaModel``'s vision tower that the projector does not read.

    The projector of LLaVA-1.5 reads the second-to-last layer.
    """
    tower, config = model.vision_tower, model.config
    depth = len(tower.encoder.layers)
    read = config.vision_feature_layer
    # Negative numbers count from the end, as in Python; hidden state 0 is the embedding.
    if isinstance(read, int):
        config.vision_feature_layer = last = read % (depth + 1)
    else:
        config.vision_feature_layer = [layer % (depth + 1) for layer in read]
        last = max(config.vision_feature_layer)
    tower.encoder.layers = tower.encoder.layers[:last]


def image_features(model: Any, pixels: Tensor) -> Tensor:
    """Return the image tokens of B images at the language model's input, shape (B, N, d)."""
    output = model.get_image_features(pixel_values=pixels.to(model.dtype))
    return torch.stack(list(output.pooler_output))
