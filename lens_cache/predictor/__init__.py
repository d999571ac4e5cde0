"""Masks for images and instructions, from a trained head and the frozen models."""

from lens_cache.predictor.predictor import LensPredictor
from lens_cache.predictor.segmentation import Segmentation

__all__ = ["LensPredictor", "Segmentation"]
