"""The plain values that extraction, store, training and evaluation pass to each other.

Words and sizes used in all of them:

* A *question* is the text of one query in LLaVA's prompt, as token states: the instruction, worded
  as a question, and the prompt's ending. Its last token is the start of the answer, f_s.
* B images, Q questions in all, N image tokens (576) in a grid of (rows, columns), P prefix tokens,
  T text tokens of an image, width d of the MLLM (4096); C, h, w of SAM's embedding (256, 64, 64).
* The *square* frame and its normalised coordinates are those of ``images.geometry``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lens_cache.features.packing import PackedTexts, pack_texts
from lens_cache.images.geometry import Convention


@dataclass(frozen=True)
class ImageFeatures:
    """Outputs of the frozen models for one image and some of its questions.

    Attributes:
        prefix: Hidden states of the system prefix, the same for every image, shape (P, d).
        image_tokens: Hidden states of the image tokens, row-major over the grid of the square,
            shape (N, d).
        text_tokens: Hidden states of each question's tokens, shapes (T_q, d).
        image_embedding: SAM's embedding of the square, shape (C, h, w).
    """

    prefix: Tensor
    image_tokens: Tensor
    text_tokens: Sequence[Tensor]
    image_embedding: Tensor


@dataclass(frozen=True)
class Features:
    """A batch of B images with Q questions in all; each question belongs to one image.

    Attributes:
        prefix: Hidden states of the system prefix, shape (P, d).
        image_tokens: Hidden states of the image tokens, row-major over the grid of the square,
            shape (B, N, d).
        texts: Hidden states of the questions' tokens, packed by image, shape (B, T, d).
        num_questions: Number of questions of each image; sums to Q.
        image_embeddings: SAM's embeddings of the squares, shape (B, C, h, w).
    """

    prefix: Tensor
    image_tokens: Tensor
    texts: PackedTexts
    num_questions: tuple[int, ...]
    image_embeddings: Tensor

    @classmethod
    def stack(cls, images: Sequence[ImageFeatures]) -> Features:
        """Batch the features of several images.

        Args:
            images: B images, each with at least one question.

        Raises:
            ValueError: If an image has no question.
        """
        return cls(
            prefix=images[0].prefix,
            image_tokens=torch.stack([image.image_tokens for image in images]),
            texts=pack_texts([image.text_tokens for image in images]),
            num_questions=tuple(len(image.text_tokens) for image in images),
            image_embeddings=torch.stack([image.image_embedding for image in images]),
        )

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Features:
        """Return a copy on a device; floating-point values in ``dtype`` if given."""
        return self._map(
            lambda values: move(values, device).to(dtype=dtype), lambda index: move(index, device)
        )

    def pin_memory(self) -> Features:
        """Return a copy in pinned memory, for asynchronous copies to a GPU."""
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
                image=change_index(self.texts.image),
                last=change_index(self.texts.last),
            ),
            image_embeddings=change(self.image_embeddings),
        )


def default_device() -> str:
    """Return ``cuda`` if PyTorch can use a GPU, ``cpu`` otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def move(values: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device; asynchronous from pinned memory."""
    return values.to(device, non_blocking=values.is_pinned())


@dataclass(frozen=True)
class LensOutput:
    """Outputs of LENS for Q questions.

    Attributes:
        low_res_logits: Mask logits over the whole square, padding included, float32, shape
            (Q, 4 h, 4 w); above 0 is foreground. ``geometry.logits_to_image`` turns them into
            pixels of the image.
        grounding_map: A_c^1 of eq. 1 after normalisation, over the grid of the square, shape
            (Q, rows, columns).
        keypoints: (x, y) in normalised coordinates of the square, 0 at its left and top edge, 1 at
            its right and bottom edge, shape (Q, m, 2); arbitrary where there is no keypoint.
        keypoint_mask: Which of the m keypoints exist, bool, shape (Q, m).
        coordinates: Where the cells of the grounding map are, see ``images.geometry``.
        quality: IoU of each mask as SAM's quality head estimates it, float32, shape (Q,); None in
            training mode.
    """

    low_res_logits: Tensor
    grounding_map: Tensor
    keypoints: Tensor
    keypoint_mask: Tensor
    coordinates: Convention = "centre"
    quality: Tensor | None = None
