"""The answer to one instruction about an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_cache.images import masks
from lens_cache.images.geometry import Convention
from lens_cache.images.overlay import BLUE, Colour, tint
from lens_cache.images.panels import Panel


@dataclass(frozen=True, kw_only=True)
class Click:
    """A point of a user, in pixels of the image, and whether it is inside the target."""

    x: float
    y: float
    inside: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The answer to one instruction about an image of H x W pixels.

    The *square* is the image resized to SAM's longest side and padded at the right and the bottom.
    In the pixels of the image (0.5, 0.5) is the centre of the first pixel.

    Attributes:
        image: The image, RGB, uint8, (H, W, 3), EXIF orientation applied.
        instruction: The instruction.
        mask: The mask in the pixels of ``image``, bool, (H, W).
        logits: Mask logits in the pixels of ``image``, float32, (H, W).
        score: The IoU that is expected of the mask, from 0 to 1. Without a calibration it is the
            stability of the mask, which orders masks but is no IoU.
        calibrated: Whether the head has a calibration.
        keypoints: (x, y) in pixels of ``image``, float32, (n, 2). A keypoint in the padding of the
            square is outside the image.
        keypoint_labels: How each keypoint was read: 1 if it is inside the mask, 0 if it is outside,
            int64, (n,).
        normalised_keypoints: The same points in normalised coordinates of the square, in [0, 1].
        grounding_map: Over the grid of the square, row by row, float32, (rows, columns).
        coordinates: Where the cells of the grounding map are: ``centre``, or ``corner`` for a run
            with the preset ``released``.
        clicks: The clicks by which it was corrected.
    """

    image: NDArray[np.uint8]
    instruction: str
    mask: NDArray[np.bool_]
    logits: NDArray[np.float32]
    score: float
    calibrated: bool
    keypoints: NDArray[np.float32]
    keypoint_labels: NDArray[np.int64]
    normalised_keypoints: NDArray[np.float32]
    grounding_map: NDArray[np.float32]
    coordinates: Convention = "centre"
    clicks: tuple[Click, ...] = ()

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """(x, y, width, height) of the mask in pixels; None if it is empty."""
        rows, columns = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return None
        left, top = int(columns[0]), int(rows[0])
        return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top

    def save(self, path: str | Path) -> None:
        """Write the mask as a black and white PNG of the size of the image."""
        masks.write_png(Path(path), self.mask)

    def overlay(self, colour: Colour = BLUE, *, opacity: float = 0.55) -> Image.Image:
        """Draw the mask on the image, at the size of the image.

        Args:
            colour: RGB of the mask.
            opacity: Share of the colour, from 0 to 1.
        """
        return Image.fromarray(tint(self.image, self.mask, colour, opacity=opacity))

    def panel(self, title: str | None = None) -> Image.Image:
        """Draw how the mask was found: image, grounding map with keypoints, and mask.

        Args:
            title: The line above; the instruction if None.
        """
        return self._panel(title).draw()

    def heat_map(self, side: int = 512) -> Image.Image:
        """Draw the grounding map over the image, with the keypoints on top.

        Args:
            side: Longest side in pixels.
        """
        return self._panel(None).images(side)["grounding map"]

    def to_coco(self, *, image_id: int | str = 0, category_id: int = 1) -> dict[str, Any]:
        """Return a result in COCO's format: ``segmentation`` as RLE, ``bbox``, ``area``, ``score``.

        Args:
            image_id: Id of the image in the annotations.
            category_id: Id of the category.
        """
        rle = masks.encode(self.mask)
        return {
            "image_id": image_id,
            "category_id": category_id,
            "segmentation": {"size": list(rle["size"]), "counts": rle["counts"]},
            "bbox": list(self.box or (0, 0, 0, 0)),
            "area": int(self.mask.sum()),
            "score": self.score,
            "caption": self.instruction,
        }

    def _panel(self, title: str | None) -> Panel:
        return Panel(
            image=self.image,
            title=f'"{self.instruction}"' if title is None else title,
            grounding_map=self.grounding_map,
            keypoints=self.normalised_keypoints,
            prediction=self.mask,
            coordinates=self.coordinates,
        )
