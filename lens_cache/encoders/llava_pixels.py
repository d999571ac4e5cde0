"""The input of LLaVA's vision tower, with the bits of the model's own image processor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

# Sides of the images on which both ways are compared: enlarged, reduced, and by much.
_PROOF = (50, 500, 1024)
_VALUES = 256  # of a channel


class TowerPixels:
    """Resizes and normalises squares for the vision tower; thread-safe.

    The processor of Hugging Face resizes with Pillow and then computes with every pixel in float64.
    But a normalised pixel depends on its channel and one of 256 values only: a table of them, made
    by the processor itself, takes half the time. It is used if it gives the same bits for images of
    noise; a processor with other steps runs as it is.

    Attributes:
        is_fast: Whether the table is used.
    """

    def __init__(self, processor: Any, side: int) -> None:
        """Take a processor.

        Args:
            processor: The image processor of a Hugging Face LLaVA, with the Pillow backend.
            side: Side of its results in pixels.
        """
        self._processor, self._side = processor, side
        self.is_fast = side**2 >= _VALUES and self._is_proven()

    def __call__(self, square: NDArray[np.uint8]) -> Tensor:
        """Return normalised pixels, float32, shape (3, side, side).

        Args:
            square: RGB, uint8, shape (s, s, 3), any s.
        """
        return torch.from_numpy(self._fast(square) if self.is_fast else self._plain(square))

    def _is_proven(self) -> bool:
        """Make the table; return whether it gives the bits of the processor."""
        # An image of the size of the result, so that nothing is resized, with every value.
        values = np.zeros((self._side**2, 3), np.uint8)
        values[:_VALUES] = np.arange(_VALUES)[:, None]
        made = self._plain(values.reshape(self._side, self._side, 3))
        self._table = np.ascontiguousarray(made.reshape(3, -1)[:, :_VALUES])
        largest = max(_PROOF)
        noise = np.random.default_rng(0).integers(0, 256, (largest, largest, 3), np.uint8)
        squares = [noise[:size, :size] for size in _PROOF]
        return all(
            self._fast(square).tobytes() == self._plain(square).tobytes() for square in squares
        )

    def _fast(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        size = (self._side, self._side)
        resized = np.asarray(Image.fromarray(square).resize(size, Image.Resampling.BICUBIC))
        planes = resized.transpose(2, 0, 1)
        pixels = np.empty(planes.shape, np.float32)
        for table, plane, normalised in zip(self._table, planes, pixels, strict=True):
            np.take(table, plane, out=normalised, mode="clip")  # no value is out of range
        return pixels

    def _plain(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        made = self._processor(Image.fromarray(square), return_tensors="np")
        pixels: NDArray[np.float32] = np.ascontiguousarray(made["pixel_values"][0], np.float32)
        return pixels
