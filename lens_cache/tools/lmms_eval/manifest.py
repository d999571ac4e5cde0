"""The entry point by which lmms-eval finds the model ``lens_cache``."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return the ``ModelManifest``; lmms-eval calls it, so the package is there."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="lens_cache", chat_class_path="lens_cache.tools.lmms_eval.model.LensCache"
    )
