"""Panels of an answer: image, grounding map with keypoints, prediction and ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lens_cache.images.geometry import (
    Convention,
    normalised_to_image,
    resize_map,
    resized_size,
)
from lens_cache.images.overlay import BLUE, Colour, tint

PANEL_SIDE = 360
_TITLE = 44
_GAP = 6
_TRUTH = (60, 200, 90)
_WHITE = (255, 255, 255)
_RED = (230, 40, 40)
_INK = (20, 20, 20)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One answer, drawn as a row of images.

    Attributes:
        image: RGB, uint8, shape (H, W, 3).
        title: One line above the row.
        grounding_map: Over the grid of the square, values in [0, 1], shape (rows, columns).
        keypoints: (x, y) in normalised coordinates of the square, shape (n, 2).
        prediction: Predicted mask, bool, shape (H, W).
        truth: Ground-truth mask, bool, shape (H, W); None if unknown.
        coordinates: Where the cells of the grounding map are, see ``images.geometry``.
        keypoints_in: The mask in which a keypoint is white; the paper's figures use the ``truth``.
    """

    image: NDArray[np.uint8]
    title: str
    grounding_map: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    prediction: NDArray[np.bool_]
    truth: NDArray[np.bool_] | None = None
    coordinates: Convention = "centre"
    keypoints_in: Literal["prediction", "truth"] = "prediction"

    def draw(self) -> Image.Image:
        """Draw the row, with a name above each image."""
        return _row(self.title, self.images(PANEL_SIDE))

    def images(self, side: int) -> dict[str, Image.Image]:
        """Draw each image of the row.

        A keypoint is white if it is inside the mask of ``keypoints_in`` and red if it is outside.

        Args:
            side: Longest side of each image in pixels.

        Returns:
            ``image``, ``grounding map``, ``prediction`` and, if known, ``ground truth``.
        """
        height, width = self.image.shape[:2]
        size = resized_size(width, height, side)
        image = Image.fromarray(self.image).resize(size, Image.Resampling.LANCZOS)
        images = {
            "image": image,
            "grounding map": self._grounding(image),
            "prediction": _overlay(image, self.prediction, BLUE),
        }
        if self.truth is not None:
            images["ground truth"] = _overlay(image, self.truth, _TRUTH)
        return images

    def _grounding(self, image: Image.Image) -> Image.Image:
        """Draw the grounding map as a heat map over the image, with the keypoints on top."""
        side = max(image.size)
        peak = float(self.grounding_map.max())
        heat = np.clip(self.grounding_map / peak if peak > 0 else self.grounding_map, 0, 1)
        # The grid covers the square: resize it there, then crop to the image.
        square = resize_map(torch.from_numpy(heat)[None], (side, side), self.coordinates)[0]
        strength = square[: image.height, : image.width, None].numpy()  # (height, width, 1)
        grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32) * 0.6
        colour = np.concatenate(
            [255 * strength, 255 * np.clip(2 * strength - 1, 0, 1), 60 * (1 - strength)], axis=-1
        )
        mixed = grey * (1 - 0.75 * strength) + colour * 0.75 * strength
        drawn = Image.fromarray(mixed.astype(np.uint8))
        self._draw_keypoints(drawn, side)
        return drawn

    def _draw_keypoints(self, canvas: Image.Image, side: int) -> None:
        """Draw the keypoints on an image; ``side`` is that of its square."""
        height, width = self.image.shape[:2]
        mask = self.truth if self.keypoints_in == "truth" else self.prediction
        assert mask is not None, "the true mask is not known"
        pixels = normalised_to_image(self.keypoints.astype(np.float64), width=width, height=height)
        draw = ImageDraw.Draw(canvas)
        for (x, y), (u, v) in zip(self.keypoints * side, pixels, strict=True):
            inside = 0 <= u < width and 0 <= v < height and mask[int(v), int(u)]
            box = (float(x) - 4, float(y) - 4, float(x) + 4, float(y) + 4)
            draw.ellipse(box, fill=_WHITE if inside else _RED, outline=_INK)


def _overlay(image: Image.Image, mask: NDArray[np.bool_], colour: Colour) -> Image.Image:
    """Draw a mask of the whole image on the resized image."""
    small = Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST)
    return Image.fromarray(tint(np.asarray(image), np.asarray(small), colour))


def _row(title: str, images: dict[str, Image.Image]) -> Image.Image:
    """Put images side by side under a title, with a name above each."""
    width, height = images["image"].size
    step = max(width, 110) + _GAP
    canvas = Image.new("RGB", (step * len(images) + _GAP, height + _TITLE + _GAP), _WHITE)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    draw.text((_GAP, 4), title, fill=_INK, font=font)
    for number, (name, image) in enumerate(images.items()):
        left = _GAP + number * step
        draw.text((left, 24), name, fill=(110, 110, 110), font=font)
        canvas.paste(image, (left, _TITLE))
    return canvas
