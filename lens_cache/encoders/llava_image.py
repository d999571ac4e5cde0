"""One image in the frozen LLaVA, ready for any number of questions."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_tower import image_features
from lens_cache.features.packing import additive_mask, block_mask, position_ids


class LlavaImage:
    """Keeps the keys and values of an image, so that each question costs its own tokens only.

    The states are those of ``LlavaEncoder.encode``, up to rounding: attention is causal and the
    image comes first, so its keys and values do not depend on the question.

    Attributes:
        image_tokens: States at the last tapped layer, row-major over the grid, shape (N, d).
    """

    def __init__(self, encoder: LlavaEncoder, square: NDArray[np.uint8]) -> None:
        """Run the image.

        Args:
            encoder: The frozen LLaVA.
            square: The image from ``geometry.image_to_square``, shape (side, side, 3), any side.

        Raises:
            ValueError: If ``square`` is not a square RGB image.
        """
        self._language = encoder.model.language_model
        self._device = encoder.device
        self._cache = DynamicCache()
        num_image = encoder.num_image_tokens
        self._end = len(encoder.prompt.prefix_ids) + num_image
        pixels = encoder.pixels(square)[None].to(encoder.device)
        no_question = torch.zeros(1, 0, dtype=torch.int64, device=encoder.device)
        with torch.inference_mode():
            features = image_features(encoder.model, pixels)
            self.image_tokens = self._states(self._cache, features, no_question, num_image)

    @torch.inference_mode()
    def text_tokens(self, texts: Sequence[Sequence[int]]) -> list[Tensor]:
        """Run questions after the image, each alone: its bits do not depend on the others.

        Args:
            texts: Token ids of each question (``PromptTokens.text_ids``).

        Returns:
            States of each question at the last tapped layer, shapes (T_q, d).
        """
        found = []
        for text in texts:
            ids = torch.tensor([list(text)], device=self._device)
            inputs = self._language.embed_tokens(ids)
            found.append(self._states(fork(self._cache), inputs, torch.zeros_like(ids)))
        return found

    def _states(
        self, cache: DynamicCache, inputs: Tensor, owner: Tensor, num_image: int = 0
    ) -> Tensor:
        """Run tokens after those in the cache; ``owner`` is that of ``block_mask``."""
        first = self._end - num_image
        mask = block_mask(self._end, owner)[:, :, self._end :]
        output = self._language(
            inputs_embeds=inputs,
            position_ids=position_ids(self._end, owner)[:, first:],
            attention_mask=additive_mask(mask, inputs.dtype),
            past_key_values=cache,
            use_cache=True,
            num_image=num_image,
        )
        states: Tensor = output.last_hidden_state[0]
        return states


def fork(cache: DynamicCache, num_layers: int | None = None) -> DynamicCache:
    """Return a cache that starts with the same keys and values and grows on its own.

    No tensor is copied: a layer that grows makes new tensors and leaves the old ones unchanged.

    Args:
        cache: The cache.
        num_layers: Keep only the first layers; all by default.
    """
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers[:num_layers]]
    return forked
