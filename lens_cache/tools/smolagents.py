"""A predictor as a tool of smolagents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from lens_cache.images.inputs import rgb_pixels
from lens_cache.predictor.predictor import LensPredictor
from lens_cache.predictor.segmentation import Segmentation
from lens_cache.tools.allowed_images import AllowedImages
from lens_cache.tools.extras import missing_extra

try:
    from smolagents import Tool
except ImportError as error:
    raise missing_extra("the tool of smolagents", "smolagents", error) from None


class LensTool(Tool):  # type: ignore[misc]  # smolagents has no types
    """Marks in an image what an instruction means, and returns the marked image.

    Attributes:
        last: The last mask, with score, box and logits; None before the first call.
    """

    name = "segment"
    description = (
        "Marks in an image what an instruction means, e.g. 'the red ring', and returns the image "
        "with the mask drawn on it."
    )
    # "any", because smolagents 1.26 refuses an image for an argument of the type "image".
    inputs = {  # noqa: RUF012  # smolagents wants a class attribute
        "image": {"type": "any", "description": "The image: a PIL image."},
        "instruction": {"type": "string", "description": "What to mark."},
    }
    output_type = "image"

    def __init__(self, predictor: LensPredictor, root: str | Path | None = None) -> None:
        """Make a tool.

        Args:
            predictor: Makes the masks.
            root: The agent may also name an image file below this folder; no file if None.

        Raises:
            ConfigError: If ``root`` is no folder.
        """
        super().__init__()
        self.last: Segmentation | None = None
        self._predictor = predictor
        self._images = AllowedImages(root)

    def forward(self, image: Any, instruction: str) -> Image.Image:
        """Segment an image.

        Args:
            image: A PIL image, an array (see ``rgb_pixels``), or the path of a file below ``root``.
            instruction: What to mark.

        Returns:
            The image with the mask drawn on it, at its size.

        Raises:
            ConfigError: If the instruction is empty, or a file is not below ``root``.
            ImageError: If the image cannot be read.
        """
        named = isinstance(image, str | Path)
        pixels = self._images.file(str(image)) if named else rgb_pixels(image)
        self.last = self._predictor(pixels, instruction)
        return self.last.overlay()
