"""Predict masks from images and instructions, with a trained run and the frozen models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lens_cache.datasets.base import Length
from lens_cache.datasets.questions import is_long, question
from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_image import LlavaImage
from lens_cache.encoders.resolve import Encoders
from lens_cache.encoders.sam import SamEncoder
from lens_cache.errors import ConfigError
from lens_cache.evaluation.mask_pairs import threshold_logit
from lens_cache.features.types import Features, ImageFeatures, default_device
from lens_cache.images.geometry import (
    Convention,
    image_to_square,
    logits_to_image,
    normalised_to_image,
)
from lens_cache.images.inputs import ImageInput, rgb_pixels
from lens_cache.images.masks import write_png
from lens_cache.images.panels import Panel
from lens_cache.store.manifest import require_same, with_overrides
from lens_cache.training.run import Run, Which, autocast


@dataclass(frozen=True)
class Prediction:
    """The answer to one instruction about an image of H x W pixels.

    The *square* is the image resized to SAM's longest side and padded at the right and the bottom.

    Attributes:
        image: The image, RGB, uint8, (H, W, 3), EXIF orientation applied.
        instruction: The instruction.
        mask: The mask in the pixels of ``image``, bool, (H, W).
        logits: Mask logits in the pixels of ``image``, float32, (H, W).
        keypoints: (x, y) in pixels of ``image``, float32, (n, 2); (0.5, 0.5) is the centre of the
            first pixel. A keypoint in the padding of the square is outside the image.
        normalised_keypoints: The same points in normalised coordinates of the square, in [0, 1].
        grounding_map: Over the grid of the square, row by row, float32, (rows, columns).
        coordinates: Where the cells of the grounding map are: ``centre``, or ``corner`` for a run
            with the preset ``released``.
    """

    image: NDArray[np.uint8]
    instruction: str
    mask: NDArray[np.bool_]
    logits: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    normalised_keypoints: NDArray[np.float32]
    grounding_map: NDArray[np.float32]
    coordinates: Convention = "centre"

    def save(self, path: str | Path) -> None:
        """Write the mask as a black and white PNG of the size of the image."""
        write_png(Path(path), self.mask)

    def overlay(self, title: str | None = None) -> Image.Image:
        """Draw a panel: image, grounding map with keypoints, and mask, side by side.

        Args:
            title: The line above; the instruction if None.
        """
        return Panel(
            image=self.image,
            title=f'"{self.instruction}"' if title is None else title,
            grounding_map=self.grounding_map,
            keypoints=self.normalised_keypoints,
            prediction=self.mask,
            coordinates=self.coordinates,
        ).draw()


@dataclass(frozen=True)
class _EncodedImage:
    """An image with its features: everything that does not depend on the instruction."""

    pixels: NDArray[np.uint8]
    llava: LlavaImage
    embedding: Tensor


class LensPredictor:
    """Segments images by instruction; the frozen models and the head stay loaded.

    Example:
        >>> predictor = LensPredictor("runs/demo/run")
        >>> predictor("photo.jpg", "the dog on the left").save("mask.png")

        Several instructions about one image run the encoders once:

        >>> predictor.set_image("photo.jpg")
        >>> masks = [predictor.predict(text).mask for text in ("the dog", "the ball")]
    """

    def __init__(
        self,
        run: Run | str | Path,
        *,
        overrides: tuple[str, ...] = (),
        which: Which | None = None,
        device: str | None = None,
    ) -> None:
        """Load the run's model and the frozen models it was trained on.

        Args:
            run: The run, or its folder.
            overrides: Paths on this machine, e.g. ``encoders.root=/checkpoints``.
            which: Checkpoint; by default the best one, or the last one if there is no best one.
            device: Device of all models; ``cuda`` by default if there is a GPU, otherwise ``cpu``.

        Raises:
            CheckpointError: If it is no run, or weights are missing.
            StoreMismatchError: If the frozen models are not those of the run.
        """
        self._run = run if isinstance(run, Run) else Run.open(run)
        self._device = device or default_device()
        config = with_overrides(self._run.manifest, overrides)
        self._data, settings = config.data, config.encoders
        encoders = Encoders.resolve(config)
        for group, fingerprint in encoders.fingerprints.items():
            advice = "Give the checkpoints of the run (--set encoders.root=...)"
            trained = self._run.manifest.fingerprints[group]
            require_same(self._run.folder, f"the group {group}", trained, fingerprint, advice)
        self._side = encoders.side
        self._llava = LlavaEncoder.from_checkpoint(
            encoders.llava,
            layers=[self._run.layer],
            dtype=getattr(torch, settings.llava.dtype),
            device=self._device,
        )
        self._sam = SamEncoder.from_checkpoint(
            encoders.sam, dtype=getattr(torch, settings.sam.dtype), device=self._device
        )
        self._model = self._run.load_model(which).to(self._device)
        self._image: _EncodedImage | None = None

    def __call__(self, image: ImageInput, instruction: str) -> Prediction:
        """Segment an image by an instruction: ``set_image``, then ``predict``.

        Raises:
            ConfigError: If the instruction is empty.
            ImageError: If the image cannot be read.
        """
        self._require(instruction)
        self.set_image(image)
        return self.predict(instruction)

    def set_image(self, image: ImageInput) -> None:
        """Run the encoders on an image, for every later call of ``predict``.

        Args:
            image: A path, a PIL image or a uint8 array (H, W, 3); see ``rgb_pixels``.

        Raises:
            ImageError: If the image cannot be read.
        """
        pixels = rgb_pixels(image)
        height, width = pixels.shape[:2]
        square = image_to_square(pixels, self._side)
        self._image = _EncodedImage(
            pixels=pixels,
            llava=LlavaImage(self._llava, square),
            embedding=self._sam.encode(square, width=width, height=height),
        )

    @torch.inference_mode()
    def predict(self, instruction: str) -> Prediction:
        """Segment the image of the last ``set_image`` by an instruction.

        Raises:
            ConfigError: If the instruction is empty, or no image was set.
        """
        self._require(instruction)
        if self._image is None:
            raise ConfigError("segmenting: no image is set; call set_image(image) first")
        pixels = self._image.pixels
        height, width = pixels.shape[:2]
        features = self._features(self._image, instruction)
        with autocast(self._run.config, self._device):
            answer = self._model(features.to(self._device, torch.float32))
        logits = logits_to_image(
            answer.low_res_logits[0], width=width, height=height, side=self._side
        )
        points = answer.keypoints[0][answer.keypoint_mask[0]].float().cpu().numpy()
        in_image = normalised_to_image(points.astype(np.float64), width=width, height=height)
        return Prediction(
            image=pixels,
            instruction=instruction,
            mask=(logits > threshold_logit(self._run.config.mask_threshold)).cpu().numpy(),
            logits=logits.cpu().numpy(),
            keypoints=in_image.astype(np.float32),
            normalised_keypoints=points,
            grounding_map=answer.grounding_map[0].float().cpu().numpy(),
            coordinates=answer.coordinates,
        )

    @staticmethod
    def _require(instruction: str) -> None:
        if not instruction.strip():
            raise ConfigError('segmenting: the instruction is empty; give one, e.g. "the orange"')

    def _features(self, image: _EncodedImage, instruction: str) -> Features:
        """Return the features of one query, as an extraction stores them."""
        length: Length = "long" if is_long(instruction) else "short"
        text = question(instruction, length, self._data)
        text_ids = self._llava.prompt.token_ids(text).text_ids
        return Features.stack(
            [
                ImageFeatures(
                    prefix=self._llava.prefix[self._run.layer],
                    image_tokens=image.llava.image_tokens,
                    text_tokens=[image.llava.text_tokens(text_ids)],
                    image_embedding=image.embedding,
                )
            ]
        )
