"""LLaVA's vision tower, up to the layer that its projector reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def end_tower(model: Any) -> None:
    """Drop the layers of a ``LlavaModel``'s tower behind those that the projector reads.

    LLaVA-1.5 reads the last layer but one.
    """
    tower, config = model.vision_tower, model.config
    depth = len(tower.encoder.layers)
    read = config.vision_feature_layer
    places = [place % (depth + 1) for place in ([read] if isinstance(read, int) else read)]
    tower.encoder.layers = tower.encoder.layers[: max(places)]
    config.vision_feature_layer = places[0] if isinstance(read, int) else places


def image_features(model: Any, pixels: Tensor) -> Tensor:
    """Return what stands for B images in the language model's input, shape (B, N, d)."""
    output = model.get_image_features(pixel_values=pixels.to(model.dtype))
    return torch.stack(list(output.pooler_output))
