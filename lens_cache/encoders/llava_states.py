"""The outputs of ``LlavaEncoder``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

# States by tapped layer.
States = dict[int, Tensor]


@dataclass(frozen=True)
class LlavaFeatures:
    """States of one image and its questions, by tapped layer.

    Attributes:
        prefix: States of the system prefix, shape (P, d), the same for every image.
        image_tokens: States of the image tokens, row-major over the grid, shape (N, d).
        text_tokens: States of each question's tokens, in the order given, shapes (T_q, d).
    """

    prefix: States
    image_tokens: States
    text_tokens: dict[int, list[Tensor]]


@dataclass(frozen=True)
class LlavaBatch:
    """States of B images and their questions, by tapped layer.

    Attributes:
        image_tokens: States of the image tokens, row-major over the grid, shape (B, N, d).
        text_tokens: States of the questions' tokens, concatenated image by image, shape
            (tokens, d).
    """

    image_tokens: States
    text_tokens: States
