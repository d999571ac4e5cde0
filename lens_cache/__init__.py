"""LENS segmentation for frozen multimodal LLMs, trained from a feature cache.

The public classes are attributes of this package; each is imported at its first use:

    import lens_cache as lc

    store = lc.Store("runs/demo/store")
    predictor = lc.LensPredictor("runs/demo/run")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lens_cache.version import __version__

if TYPE_CHECKING:
    from lens_cache.agent import LensAgent
    from lens_cache.config.extract import ExtractConfig
    from lens_cache.config.load import load_config
    from lens_cache.config.train import TrainConfig
    from lens_cache.features.types import Features
    from lens_cache.models.lens import LensModel
    from lens_cache.plan.plan import Plan
    from lens_cache.predictor import LensPredictor, Segmentation
    from lens_cache.store.store import Store
    from lens_cache.training.run import Run

__all__ = [
    "ExtractConfig",
    "Features",
    "LensAgent",
    "LensModel",
    "LensPredictor",
    "Plan",
    "Run",
    "Segmentation",
    "Store",
    "TrainConfig",
    "__version__",
    "load_config",
]

# Importing torch and transformers takes seconds, so no module is imported before it is used.
_MODULES = {
    "ExtractConfig": "lens_cache.config.extract",
    "Features": "lens_cache.features.types",
    "LensModel": "lens_cache.models.lens",
    "LensAgent": "lens_cache.agent",
    "LensPredictor": "lens_cache.predictor",
    "Plan": "lens_cache.plan.plan",
    "Run": "lens_cache.training.run",
    "Segmentation": "lens_cache.predictor",
    "Store": "lens_cache.store.store",
    "TrainConfig": "lens_cache.config.train",
    "load_config": "lens_cache.config.load",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return sorted({*globals(), *__all__})
