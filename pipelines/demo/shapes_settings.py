"""The preset ``shapes`` of an extraction, for a world on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lens_cache.assets import SHAPES_MODELS
from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import load_config


def extract_config(
    world: Path, layers: Sequence[int] | None = None, models: Path = SHAPES_MODELS
) -> ExtractConfig:
    """Return the settings that extract a world of shapes.

    Args:
        world: Folder of the world.
        layers: Layers to cache; by default the one of the preset.
        models: Folder with ``llava`` and ``sam.pth``.
    """
    # A JSON string is a YAML string, whatever characters the path has.
    values = {"data.root": json.dumps(str(world)), "encoders.root": json.dumps(str(models))}
    if layers is not None:
        values["encoders.llava.layers"] = json.dumps(list(layers))
    overrides = [f"{name}={value}" for name, value in values.items()]
    return load_config(ExtractConfig, None, ["preset=shapes", *overrides])
