"""The plain values that travel between the layers of the package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lens_cache.features.packing import PackedTexts, pack_texts


@dataclass(frozen=True)
class ImageFeatures:
    """What the frozen models say about one image and some of its questions.

    Attributes:
        prefix: States of the system prefix, the same for every image, shape (P, d).
        image_tokens: States of the image, row-major over the grid, shape (N, d).
        text_tokens: States of each question, shapes (T_q, d).
        image_embedding: SAM's embedding of the image, shape (C, h, w).
    """

    prefix: Tensor
    image_tokens: Tensor
    text_tokens: Sequence[Tensor]
    image_embedding: Tensor


@dataclass(frozen=True)
class Features:
    """A batch of B images with Q questions in all; a question belongs to one image.

    Attributes:
        prefix: Shape (P, d).
        image_tokens: Shape (B, N, d).
        texts: The questions, packed per image; tokens of shape (B, T, d).
        num_questions: How many questions each image has; sums to Q.
        image_embeddings: Shape (B, C, h, w).
    """

    prefix: Tensor
    image_tokens: Tensor
    texts: PackedTexts
    num_questions: tuple[int, ...]
    image_embeddings: Tensor

    @classmethod
    def stack(cls, images: Sequence[ImageFeatures]) -> Features:
        """Batch the features of several images; every image needs at least one question."""
        return cls(
            prefix=images[0].prefix,
            image_tokens=torch.stack([image.image_tokens for image in images]),
            texts=pack_texts([image.text_tokens for image in images]),
            num_questions=tuple(len(image.text_tokens) for image in images),
            image_embeddings=torch.stack([image.image_embedding for image in images]),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Features:
        """Move to a device and, if given, to a floating-point precision there."""
        return self._map(
            lambda values: move(values, device).to(dtype=dtype), lambda index: move(index, device)
        )

    def pin_memory(self) -> Features:
        """Copy to memory from which a GPU can fetch by itself."""
        return self._map(Tensor.pin_memory, Tensor.pin_memory)

    def _map(
        self, change: Callable[[Tensor], Tensor], change_index: Callable[[Tensor], Tensor]
    ) -> Features:
        return replace(
            self,
            prefix=change(self.prefix),
            image_tokens=change(self.image_tokens),
            texts=PackedTexts(
                tokens=change(self.texts.tokens),
                owner=change_index(self.texts.owner),
                places=change_index(self.texts.places),
            ),
            image_embeddings=change(self.image_embeddings),
        )


def default_device() -> str:
    """Return ``cuda`` if PyTorch can use a GPU, ``cpu`` otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def move(values: Tensor, device: torch.device | str) -> Tensor:
    """Move to a device; from pinned memory without waiting for it."""
    return values.to(device, non_blocking=values.is_pinned())


@dataclass(frozen=True)
class Segmentation:
    """What LENS answers to Q questions.

    Attributes:
        low_res_logits: Mask logits over the square, shape (Q, n, n).
        grounding_map: A_c^1 as the loss sees it (normalised), shape (Q, rows, columns).
        keypoints: (x, y) in normalised coordinates of the square, shape (Q, m, 2).
        keypoint_mask: Which of the m keypoints exist, bool, shape (Q, m).
    """

    low_res_logits: Tensor
    grounding_map: Tensor
    keypoints: Tensor
    keypoint_mask: Tensor
