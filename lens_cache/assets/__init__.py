"""Data files of the package."""

from pathlib import Path

# Twelve photographs in COCO's layout, with their authors in ATTRIBUTION.md.
PHOTOGRAPHS = Path(__file__).parent / "photographs"
# A tiny LLaVA (``llava/``) and a tiny SAM (``sam.pth``), trained on drawn shapes; see its CARD.md.
SHAPES_MODELS = Path(__file__).parent / "shapes_models"
# A head that was trained on them, as ``lens-cache export`` writes it, and pictures to try it on.
SHAPES_HEAD = Path(__file__).parent / "shapes_head"
SHAPES_PICTURES = Path(__file__).parent / "shapes_pictures"
# Class names of label maps that come without names, with their sources in SOURCES.md.
CLASSES = Path(__file__).parent / "classes"
# Published numbers of images and queries of LISA's sets.
PUBLISHED_COUNTS = Path(__file__).parent / "published_counts.yaml"
# Published results of other methods, with their sources.
PUBLISHED_RESULTS = Path(__file__).parent / "published_results.yaml"
