"""Pictures for people: image, grounding map with keypoints, prediction, truth, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lens_cache.images.geometry import normalised_to_image, resized_size

PANEL_SIDE = 360
_TITLE = 44
_GAP = 6
_PREDICTION = (30, 144, 255)
_TRUTH = (60, 200, 90)
_WHITE, _RED, _INK = (255, 255, 255), (230, 40, 40), (20, 20, 20)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What a row of pictures shows.

    Attributes:
        image: RGB, uint8 (H, W, 3).
        title: One line above the pictures.
        grounding_map: Over the square's grid, (rows, columns), values in [0, 1].
        keypoints: (x, y) in normalised coordinates of the square, (n, 2).
        prediction: Bool (H, W).
        truth: Bool (H, W), if it is known.
    """

    image: NDArray[np.uint8]
    title: str
    grounding_map: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    prediction: NDArray[np.bool_]
    truth: NDArray[np.bool_] | None = None

    def draw(self) -> Image.Image:
        """Draw the row."""
        return _row(self.title, self.pictures(PANEL_SIDE))

    def pictures(self, side: int) -> dict[str, Image.Image]:
        """Draw each picture by name, the longest side in pixels.

        A keypoint is white where it lies inside the predicted mask, which kept it, and red outside.
        """
        height, width = self.image.shape[:2]
        size = resized_size(width, height, side)
        photo = Image.fromarray(self.image).resize(size, Image.Resampling.LANCZOS)
        pictures = {
            "image": photo,
            "grounding map": self._grounding(photo),
            "prediction": _overlay(photo, self.prediction, _PREDICTION),
        }
        if self.truth is not None:
            pictures["ground truth"] = _overlay(photo, self.truth, _TRUTH)
        return pictures

    def _grounding(self, photo: Image.Image) -> Image.Image:
        """Draw the grounding map as heat over the photo, and the keypoints on it."""
        side = max(photo.size)
        peak = float(self.grounding_map.max())
        heat = np.clip(self.grounding_map / peak if peak > 0 else self.grounding_map, 0, 1)
        square = Image.fromarray((heat * 255).astype(np.uint8)).resize(
            (side, side), Image.Resampling.BILINEAR
        )
        strength = np.asarray(square.crop((0, 0, *photo.size)), dtype=np.float32)[..., None] / 255
        grey = np.asarray(photo.convert("L").convert("RGB"), dtype=np.float32) * 0.6
        colour = np.concatenate(
            [255 * strength, 255 * np.clip(2 * strength - 1, 0, 1), 60 * (1 - strength)], axis=-1
        )
        mixed = grey * (1 - 0.75 * strength) + colour * 0.75 * strength
        picture = Image.fromarray(mixed.astype(np.uint8))
        self._draw_keypoints(picture, side)
        return picture

    def _draw_keypoints(self, picture: Image.Image, side: int) -> None:
        height, width = self.image.shape[:2]
        pixels = normalised_to_image(self.keypoints.astype(np.float64), width=width, height=height)
        draw = ImageDraw.Draw(picture)
        for (x, y), (u, v) in zip(self.keypoints * side, pixels, strict=True):
            inside = 0 <= u < width and 0 <= v < height and self.prediction[int(v), int(u)]
            box = (float(x) - 4, float(y) - 4, float(x) + 4, float(y) + 4)
            draw.ellipse(box, fill=_WHITE if inside else _RED, outline=_INK)


def _overlay(
    photo: Image.Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]
) -> Image.Image:
    """Tint the mask's pixels; what lies outside fades a little."""
    small = Image.fromarray(mask).resize(photo.size, Image.Resampling.NEAREST)
    inside = np.asarray(small)[..., None]
    pixels = np.asarray(photo, dtype=np.float32)
    tinted = 0.45 * pixels + 0.55 * np.asarray(colour, dtype=np.float32)
    return Image.fromarray(np.where(inside, tinted, pixels * 0.8).astype(np.uint8))


def _row(title: str, pictures: dict[str, Image.Image]) -> Image.Image:
    width, height = pictures["image"].size
    step = max(width, 110) + _GAP
    canvas = Image.new("RGB", (step * len(pictures) + _GAP, height + _TITLE + _GAP), _WHITE)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    draw.text((_GAP, 4), title, fill=_INK, font=font)
    for number, (name, picture) in enumerate(pictures.items()):
        left = _GAP + number * step
        draw.text((left, 24), name, fill=(110, 110, 110), font=font)
        canvas.paste(picture, (left, _TITLE))
    return canvas
