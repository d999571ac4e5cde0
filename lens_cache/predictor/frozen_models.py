"""The two frozen models that a trained head needs, on one device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_chat import ChatImage, LlavaChat
from lens_cache.encoders.llava_image import LlavaImage
from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.llava_states import States
from lens_cache.encoders.resolve import Encoders
from lens_cache.encoders.sam import SamEncoder
from lens_cache.errors import StoreMismatchError
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.predictor.trained_head import TrainedHead
from lens_cache.store.manifest import differences


class ReadImage(Protocol):
    """An image in the multimodal LLM, ready for questions.

    Attributes:
        image_tokens: States at the tapped layer, row-major over the grid, shape (N, d).
    """

    image_tokens: Tensor

    def text_tokens(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return the states of each question, shapes (T_q, d)."""


@dataclass
class FrozenModels:
    """Both frozen models.

    Attributes:
        prompt: The multimodal LLM's prompt.
        side: Side of the square frame in pixels.
        sam: SAM's image encoder.
        parts: The frozen parts of the head.
        llava: The multimodal LLM up to the tapped layer, or all of it.
    """

    prompt: LlavaPrompt
    side: int
    sam: SamEncoder
    parts: FrozenParts
    llava: LlavaEncoder | LlavaChat

    @classmethod
    def load(
        cls, head: TrainedHead, overrides: tuple[str, ...], device: str, *, chat: bool
    ) -> FrozenModels:
        """Load the models that a head was trained on, and no others.

        Args:
            head: The head.
            overrides: Paths on this machine, e.g. ``encoders.root=/checkpoints``.
            device: Device of both.
            chat: Load all layers of the multimodal LLM, so that it can answer in words.

        Raises:
            CheckpointError: If weights are missing.
            StoreMismatchError: If they are those of other models; the message names what differs.
        """
        config = head.extract_config(overrides)
        found = Encoders.resolve(config)
        for group, fingerprint in found.fingerprints.items():
            # Which layers a store has does not change the states of one.
            trained, here = ({**p, "layers": None} for p in (head.fingerprints[group], fingerprint))
            if different := differences(trained, here, where="in the head"):
                raise StoreMismatchError(
                    f"loading the frozen models of the head {head.name}, {group}: "
                    f"{'; '.join(different)}. Give the checkpoints that it was trained on "
                    "(--set encoders.root=...)"
                )
        settings = config.encoders
        dtype = getattr(torch, settings.llava.dtype)
        llava: LlavaEncoder | LlavaChat
        if chat:
            llava = LlavaChat.from_checkpoint(
                found.llava, layer=head.layer, dtype=dtype, device=device
            )
        else:
            llava = LlavaEncoder.from_checkpoint(
                found.llava, layers=[head.layer], dtype=dtype, device=device
            )
        return cls(
            prompt=found.prompt,
            side=found.side,
            sam=SamEncoder.from_checkpoint(
                found.sam, dtype=getattr(torch, settings.sam.dtype), device=device
            ),
            parts=found.frozen_parts([]),
            llava=llava,
        )

    def read(self, square: NDArray[np.uint8]) -> LlavaImage | ChatImage:
        """Run the multimodal LLM on a square of shape (side, side, 3)."""
        if isinstance(self.llava, LlavaChat):
            return self.llava.read(square)
        return LlavaImage(self.llava, square)

    def prefix(self, image: LlavaImage | ChatImage) -> States:
        """Return the states of the system prefix by tapped layer, shape (P, d)."""
        if isinstance(image, ChatImage):
            return image.prefix
        assert isinstance(self.llava, LlavaEncoder)
        return self.llava.prefix
