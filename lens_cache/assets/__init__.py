"""Files that come with the package."""

from pathlib import Path

# A dozen photographs in COCO's layout; ATTRIBUTION.md among them says whose they are.
PHOTOGRAPHS = Path(__file__).parent / "photographs"
# The trained frozen models of the world of shapes: ``llava/`` and ``sam.pth``.
SHAPES_MODELS = Path(__file__).parent / "shapes_models"
