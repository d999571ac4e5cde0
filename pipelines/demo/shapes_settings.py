"""How the world of shapes is extracted with its two tiny models."""

from __future__ import annotations

from pathlib import Path

from lens_cache.assets import SHAPES_MODELS
from lens_cache.config.data import DataConfig
from lens_cache.config.extract import (
    EncodersConfig,
    ExtractConfig,
    LlavaConfig,
    SamConfig,
    StoreConfig,
)

# The layer that LENS reads, of six.
LAYER = 2


def extract_config(
    world: Path, layers: tuple[int, ...] = (LAYER,), models: Path = SHAPES_MODELS
) -> ExtractConfig:
    """Return the settings of ``configs/extract/shapes.yaml`` for a world on disk."""
    return ExtractConfig(
        data=DataConfig(kind="jsonl", root=world, short_question="Point out {instruction}."),
        encoders=EncodersConfig(
            root=models,
            llava=LlavaConfig(checkpoint="llava", layers=layers),
            sam=SamConfig(checkpoint="sam.pth"),
        ),
        store=StoreConfig(shard_size=64),
    )
