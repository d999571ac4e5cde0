"""Files that come with the package."""

from pathlib import Path

# A dozen photographs in COCO's layout; ATTRIBUTION.md among them says whose they are.
PHOTOGRAPHS = Path(__file__).parent / "photographs"
# A tiny LLaVA (``llava/``) and a tiny SAM (``sam.pth``), trained on drawn shapes; see its CARD.md.
SHAPES_MODELS = Path(__file__).parent / "shapes_models"
# Names of classes whose label maps come without them; SOURCES.md among them says whose they are.
CLASSES = Path(__file__).parent / "classes"
# How many images and queries LISA's sets have, as published.
PUBLISHED_COUNTS = Path(__file__).parent / "published_counts.yaml"
