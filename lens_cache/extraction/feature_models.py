"""The two frozen models as an extraction sees them: a batch of images goes in, arrays come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.config.extract import ExtractConfig
from lens_cache.encoders.checkpoints import resolve_file, resolve_folder
from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.sam import SamEncoder
from lens_cache.store.layout import IMAGE_EMBEDDINGS, array_name, part_of

Texts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Picture:
    """A decoded image, ready for the models.

    Attributes:
        square: The image in the square frame, shape (side, side, 3).
        pixels: The input of LLaVA's vision tower; None if no LLaVA runs.
        width: Width of the image in pixels, before it was resized.
        height: Height of the image in pixels.
    """

    square: NDArray[np.uint8]
    pixels: Tensor | None
    width: int
    height: int


class FrozenModel(Protocol):
    """One feature group's model.

    Attributes:
        stage: Its name in reports of times.
    """

    stage: str

    def run(self, pictures: Sequence[Picture], texts: Sequence[Texts]) -> dict[str, Tensor]:
        """Queue a batch; returns each array of the group for all its images."""

    def split(
        self, values: Mapping[str, Tensor], texts: Sequence[Texts]
    ) -> list[dict[str, Tensor]]:
        """Cut what ``run`` returned, or what has the same first axis, into images."""


class HiddenStates:
    """LLaVA, for the group ``hidden_states``."""

    stage = "llava"

    def __init__(self, encoder: LlavaEncoder) -> None:
        self._encoder = encoder

    def run(self, pictures: Sequence[Picture], texts: Sequence[Texts]) -> dict[str, Tensor]:
        """See ``FrozenModel``."""
        pixels = [picture.pixels for picture in pictures]
        states = self._encoder.encode_batch([p for p in pixels if p is not None], texts)
        values = {}
        for layer in self._encoder.layers:
            values[array_name(layer, "image_tokens")] = states.image_tokens[layer]
            values[array_name(layer, "text_tokens")] = states.text_tokens[layer]
        return values

    def split(
        self, values: Mapping[str, Tensor], texts: Sequence[Texts]
    ) -> list[dict[str, Tensor]]:
        """See ``FrozenModel``; the text tokens of all images are one array of rows."""
        rows = [sum(len(text) for text in asked) for asked in texts]
        parts = {
            name: torch.split(value, rows) if part_of(name) == "text_tokens" else value.unbind()
            for name, value in values.items()
        }
        return [{name: part[i] for name, part in parts.items()} for i in range(len(texts))]


class ImageEmbeddings:
    """SAM's image encoder, for the group ``image_embeddings``."""

    stage = "sam"

    def __init__(self, encoder: SamEncoder) -> None:
        self._encoder = encoder

    def run(self, pictures: Sequence[Picture], texts: Sequence[Texts]) -> dict[str, Tensor]:
        """See ``FrozenModel``."""
        sizes = [(picture.width, picture.height) for picture in pictures]
        squares = [picture.square for picture in pictures]
        return {IMAGE_EMBEDDINGS: self._encoder.encode_batch(squares, sizes)}

    def split(
        self, values: Mapping[str, Tensor], texts: Sequence[Texts]
    ) -> list[dict[str, Tensor]]:
        """See ``FrozenModel``."""
        return [{name: value[i] for name, value in values.items()} for i in range(len(texts))]


def load_llava(config: ExtractConfig, device: str) -> LlavaEncoder:
    """Load the LLaVA of an extraction.

    Raises:
        CheckpointError: If it is not there or not what it should be.
    """
    settings, root = config.encoders.llava, config.encoders.root
    encoder = LlavaEncoder.from_checkpoint(
        resolve_folder(settings.checkpoint, root, settings.revision),
        layers=settings.layers,
        dtype=getattr(torch, settings.dtype),
        device=device,
    )
    if config.workers.compile:
        encoder.compile()
    return encoder


def load_sam(config: ExtractConfig, device: str) -> SamEncoder:
    """Load the SAM of an extraction.

    Raises:
        CheckpointError: If it is not there or not what it should be.
    """
    settings, root = config.encoders.sam, config.encoders.root
    encoder = SamEncoder.from_checkpoint(
        resolve_file(settings.checkpoint, root, settings.revision),
        dtype=getattr(torch, settings.dtype),
        device=device,
    )
    if config.workers.compile:
        encoder.compile()
    return encoder
