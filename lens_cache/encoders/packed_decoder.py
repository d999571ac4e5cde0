"""LLaVA's language model up to the last tapped layer, on packed sequences.

The system prefix is the same for every image and, because attention is causal, does not depend on
the tokens after it. So it runs once, and each attention layer stores its keys and values. Every
later forward contains only image tokens and questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lens_cache.encoders.llava_states import States
from lens_cache.encoders.packed_attention import AFTER_PREFIX_ATTENTION, PREFIX_ATTENTION
from lens_cache.features.packing import additive_mask, block_mask, pack_ids, position_ids
from lens_cache.features.transfer import Transfer


class PackedDecoder:
    """The language model after its prefix.

    Attributes:
        prefix: States of the prefix, shape (P, d), by tapped layer.
    """

    def __init__(
        self, language: Any, prefix_ids: Sequence[int], layers: Sequence[int], transfer: Transfer
    ) -> None:
        """Run the prefix.

        Args:
            language: A ``LlamaModel`` that ends at the last tapped layer; modified in place.
            prefix_ids: Token ids of the prefix.
            layers: Tapped layers in ascending order.
            transfer: Copies to the model's device.
        """
        self._language = language
        self._layers = tuple(layers)
        self._transfer = transfer
        self._num_prefix = len(prefix_ids)
        self.prefix = self._run_prefix(prefix_ids)

    @torch.inference_mode()
    def _run_prefix(self, prefix_ids: Sequence[int]) -> States:
        self._language.config._attn_implementation = PREFIX_ATTENTION
        ids = self._transfer.upload(torch.tensor([list(prefix_ids)]))
        states = self._states(inputs_embeds=self._language.embed_tokens(ids))
        self._language.config._attn_implementation = AFTER_PREFIX_ATTENTION
        return {layer: state[0] for layer, state in states.items()}

    def run(
        self, images: Tensor, texts: Sequence[Sequence[Sequence[int]]]
    ) -> tuple[States, States]:
        """Run R images, each with its questions.

        Never waits for the device: all sizes are known on the host.

        Args:
            images: Image tokens at the input of the model, shape (R, N, d).
            texts: For each image the token ids of its questions; may be empty.

        Returns:
            By tapped layer the states of the image tokens, shape (R, N, d), and those of the
            questions' tokens, concatenated image by image, shape (tokens, d).
        """
        packed = pack_ids(texts)
        ids = self._transfer.upload(packed.ids)
        owner = self._transfer.upload(packed.owner)
        places = self._transfer.upload(packed.places)
        words = self._language.embed_tokens(ids)  # (R, T, d)
        num_image = images.shape[1]
        num_shared = self._num_prefix + num_image
        mask = block_mask(num_shared, owner)[:, :, num_shared:]  # (R, 1, T, P + N + T)
        states = self._states(
            inputs_embeds=torch.cat([images.to(words.dtype), words], dim=1),
            position_ids=position_ids(num_shared, owner)[:, self._num_prefix :],
            attention_mask=additive_mask(mask, words.dtype),
            num_image=num_image,
        )  # (R, N + T, d)
        image_states, text_states = {}, {}
        for layer, state in states.items():
            image_states[layer] = state[:, :num_image]
            text_states[layer] = state[:, num_image:].flatten(0, 1).index_select(0, places)
        return image_states, text_states

    def _states(self, **inputs: Any) -> States:
        """Run the model; returns the states of the tapped layers."""
        output = self._language(
            use_cache=False, output_hidden_states=len(self._layers) > 1, **inputs
        )
        states = {layer: output.hidden_states[layer] for layer in self._layers[:-1]}
        return {**states, self._layers[-1]: output.last_hidden_state}
