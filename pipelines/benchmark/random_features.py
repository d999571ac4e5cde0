"""Random features with the shapes of real ones, the same at every call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lens_cache.store.io.files import crc32c
from lens_cache.store.values import plain_bytes

SHORTEST, LONGEST = 20, 40  # tokens of a question
PARTS = ("image_tokens", "image_embedding", "text_tokens")


@dataclass(frozen=True, kw_only=True)
class RecordSizes:
    """Shapes of an image's features, all in bfloat16.

    Attributes:
        name: Name of the models with features of these shapes.
        image_tokens: Number of tokens of an image.
        hidden_size: Width of the LLM.
        channels: Channels of SAM's embedding.
        side: Its rows and columns.
        questions: Number of questions of an image, of 20 to 40 tokens each.
    """

    name: str
    image_tokens: int
    hidden_size: int
    channels: int
    side: int
    questions: int = 3


FULL_SIZE = RecordSizes(
    name="LLaVA-1.5-7B and SAM ViT-H", image_tokens=576, hidden_size=4096, channels=256, side=64
)
SMALL_SIZE = RecordSizes(
    name="an LLM of width 1024 and SAM", image_tokens=576, hidden_size=1024, channels=256, side=64
)


@dataclass(frozen=True)
class Record:
    """The features of an image as a reader returns them.

    Attributes:
        image_tokens: Shape (N, d).
        image_embedding: Shape (C, h, w).
        text_tokens: Tokens of every question, shape (T_q, d) each, or concatenated in one tensor.
    """

    image_tokens: Tensor
    image_embedding: Tensor
    text_tokens: Sequence[Tensor]

    def tensors(self) -> list[Tensor]:
        """Return all tensors in the order of ``PARTS``."""
        return [self.image_tokens, self.image_embedding, *self.text_tokens]

    def parts(self) -> dict[str, Tensor]:
        """Return one tensor for each of ``PARTS``; text as (rows, d)."""
        values = (self.image_tokens, self.image_embedding, torch.cat(list(self.text_tokens)))
        return dict(zip(PARTS, values, strict=True))

    def checksum(self) -> int:
        """Return the CRC-32C of all values."""
        crc = 0
        for tensor in self.tensors():
            crc = crc32c(plain_bytes(tensor), crc)
        return crc


class RandomFeatures:
    """Features of some images, generated at every access."""

    def __init__(self, sizes: RecordSizes, images: int) -> None:
        self.sizes, self.images = sizes, images
        rng = np.random.default_rng(0)
        lengths = rng.integers(SHORTEST, LONGEST + 1, (images, sizes.questions))
        self.lengths: list[list[int]] = lengths.tolist()

    def __iter__(self) -> Iterator[Record]:
        """Yield the records in order."""
        return (self.record(image) for image in range(self.images))

    def record(self, image: int) -> Record:
        """Return the features of an image."""
        sizes, generator = self.sizes, torch.Generator().manual_seed(image)

        def values(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).bfloat16()

        return Record(
            image_tokens=values(sizes.image_tokens, sizes.hidden_size),
            image_embedding=values(sizes.channels, sizes.side, sizes.side),
            text_tokens=[values(n, sizes.hidden_size) for n in self.lengths[image]],
        )

    def shapes(self, image: int) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of an image's ``PARTS``."""
        sizes = self.sizes
        return {
            "image_tokens": (sizes.image_tokens, sizes.hidden_size),
            "image_embedding": (sizes.channels, sizes.side, sizes.side),
            "text_tokens": (sum(self.lengths[image]), sizes.hidden_size),
        }

    def num_bytes(self) -> int:
        """Return the bytes of all features."""
        counts = (np.prod(s) for image in range(self.images) for s in self.shapes(image).values())
        return 2 * int(sum(counts))
