"""LENS segmentation for frozen multimodal LLMs, trained from a feature cache."""

__version__ = "0.1.0"
