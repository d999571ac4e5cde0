"""LLaVA's language model up to the tapped layer: images with their questions packed behind them.

The system prefix is the same for every image, and causal attention lets it see nothing behind it.
So it runs once; every later forward begins behind it, with the keys and values that its layers
remember.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lens_cache.encoders.packed_attention import BEHIND_PREFIX_ATTENTION, PREFIX_ATTENTION
from lens_cache.encoders.transfer import Transfer
from lens_cache.features.packing import additive_mask, block_mask, pack_ids, position_ids

# Per tapped layer.
States = dict[int, Tensor]


class PackedDecoder:
    """The language model with the prefix behind it.

    Attributes:
        prefix: States of the prefix, shape (P, d), per tapped layer.
    """

    def __init__(
        self, language: Any, prefix_ids: Sequence[int], layers: Sequence[int], transfer: Transfer
    ) -> None:
        """Run the prefix.

        Args:
            language: A ``LlamaModel`` that ends at the last of the layers; it is changed.
            prefix_ids: Tokens of the prefix.
            layers: Tapped layers in ascending order.
            transfer: The way to the model's device.
        """
        self._language, self._layers, self._transfer = language, tuple(layers), transfer
        self._start = len(prefix_ids)
        self.prefix = self._run_prefix(prefix_ids)

    @torch.inference_mode()
    def _run_prefix(self, prefix_ids: Sequence[int]) -> States:
        self._language.config._attn_implementation = PREFIX_ATTENTION
        ids = self._transfer.upload(torch.tensor([list(prefix_ids)]))
        states = self._states(inputs_embeds=self._language.embed_tokens(ids))
        self._language.config._attn_implementation = BEHIND_PREFIX_ATTENTION
        return {layer: state[0] for layer, state in states.items()}

    def run(
        self, images: Tensor, texts: Sequence[Sequence[Sequence[int]]]
    ) -> tuple[States, States]:
        """Run R images, each with questions behind it.

        Nothing here waits for the device: the host alone decides what goes where.

        Args:
            images: What stands for them in the input, shape (R, N, d).
            texts: Per image the token ids of each question; may be empty.

        Returns:
            Per tapped layer the states of the images, shape (R, N, d), and of all questions, one
            after another, image by image, shape (tokens, d).
        """
        packed = pack_ids(texts)
        ids, owner, places = map(self._transfer.upload, (packed.ids, packed.owner, packed.places))
        words = self._language.embed_tokens(ids)
        num_image = images.shape[1]
        end = self._start + num_image
        states = self._states(
            inputs_embeds=torch.cat([images.to(words.dtype), words], dim=1),
            position_ids=position_ids(end, owner)[:, self._start :],
            attention_mask=additive_mask(block_mask(end, owner)[:, :, end:], words.dtype),
            num_image=num_image,
        )
        return (
            {layer: state[:, :num_image] for layer, state in states.items()},
            {
                layer: state[:, num_image:].flatten(0, 1).index_select(0, places)
                for layer, state in states.items()
            },
        )

    def _states(self, **inputs: Any) -> States:
        """Return the states of the tapped layers."""
        output = self._language(
            use_cache=False, output_hidden_states=len(self._layers) > 1, **inputs
        )
        states = {layer: output.hidden_states[layer] for layer in self._layers[:-1]}
        return {**states, self._layers[-1]: output.last_hidden_state}
