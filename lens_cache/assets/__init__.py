"""Files that come with the package."""

from pathlib import Path

# A dozen photographs in COCO's layout; ATTRIBUTION.md among them says whose they are.
PHOTOGRAPHS = Path(__file__).parent / "photographs"
