"""Images with everything that does not depend on an instruction, the last ones kept in memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.encoders.llava_chat import ChatImage
from lens_cache.encoders.llava_image import LlavaImage
from lens_cache.images.geometry import image_to_square
from lens_cache.predictor.frozen_models import FrozenModels


@dataclass
class EncodedImage:
    """An image in both frozen models; each runs once, when it is first needed.

    Attributes:
        pixels: RGB, uint8, shape (H, W, 3).
        square: The same in the square frame, shape (side, side, 3).
    """

    pixels: NDArray[np.uint8]
    square: NDArray[np.uint8]
    _models: FrozenModels
    _llava: LlavaImage | ChatImage | None = None
    _embedding: Tensor | None = None

    @property
    def llava(self) -> LlavaImage | ChatImage:
        """The image in the multimodal LLM."""
        if self._llava is None:
            self._llava = self._models.read(self.square)
        return self._llava

    @property
    def embedding(self) -> Tensor:
        """SAM's embedding of the square, shape (C, h, w)."""
        if self._embedding is None:
            height, width = self.pixels.shape[:2]
            self._embedding = self._models.sam.encode(self.square, width=width, height=height)
        return self._embedding


class EncodedImages:
    """The images that were used last, by content.

    Args:
        models: The frozen models.
        capacity: Most images that are kept; the one that was not used for the longest time goes
            first. Each one holds the keys and values of its tokens on the device.
    """

    def __init__(self, models: FrozenModels, capacity: int) -> None:
        self._models = models
        self._capacity = capacity
        self._images: OrderedDict[str, EncodedImage] = OrderedDict()

    def get(self, pixels: NDArray[np.uint8]) -> EncodedImage:
        """Return an image, encoded earlier or to be encoded at its first use."""
        key = _content(pixels)
        found = self._images.pop(key, None)
        if found is None:
            square = image_to_square(pixels, self._models.side)
            found = EncodedImage(pixels, square, self._models)
        self._images[key] = found
        while len(self._images) > max(1, self._capacity):
            self._images.popitem(last=False)
        return found


def _content(pixels: NDArray[np.uint8]) -> str:
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()
