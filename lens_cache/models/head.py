"""The segmentation head: two decoder layers of the MLLM's own kind (paper section 3.1).

Layer 1 turns text-to-image attention into a grounding map (eq. 1, see ``grounding_map``), layer 2
refines the features (eq. 2). The head is causal like the MLLM, so all questions of an image share
one pass over its image tokens (see ``features.flat_batch``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModel

from lens_cache.config.train import ModelConfig
from lens_cache.errors import CheckpointError, ConfigError, one_line
from lens_cache.features.flat_batch import FlatBatch
from lens_cache.features.frozen_parts import REWRITE_FROZEN_PARTS, FrozenParts
from lens_cache.features.types import Features
from lens_cache.features.weights import load_strict
from lens_cache.models.grounding_map import (
    aggregate_rows,
    log_text_to_image_attention,
    normalise_map,
)

NUM_LAYERS = 2
ATTENTION_NAME = "lens_cache_text_rows"


@dataclass(frozen=True)
class HeadOutput:
    """Outputs of the head for Q questions about B images.

    Attributes:
        grounding_map: A_c^1 after normalisation, float32, shape (Q, rows, columns).
        image_features: H_out^2 of the image tokens, row-major over the grid, shape (B, N, d).
        start_of_answer: f_s^2, the state of each question's last token, shape (Q, d).
        image: Index of each question's image, int64, shape (Q,).
    """

    grounding_map: Tensor
    image_features: Tensor
    start_of_answer: Tensor
    image: Tensor


@dataclass
class _TextRows:
    """Carries the layout of the batch into the attention function, and attention rows out of it.

    transformers passes unknown keyword arguments of a model's forward on to its attention function,
    which may return nothing but the output and the whole attention matrix. So layer 1 writes the
    few rows that are needed into this object.

    Attributes:
        flat: Layout of the tokens.
        log_attention: The logarithm of eq. 1's attention to image tokens, shape (B, T, N); None
            until layer 1 has run.
    """

    flat: FlatBatch
    log_attention: Tensor | None = None


class SegmentationHead(nn.Module):
    """Two decoder layers with their own rotary embedding and final norm.

    The final norm is new, as in the released code; its epsilon is the MLLM's.

    Args:
        config: Only ``warm_start``, ``peak_headroom`` and the ``attention_*`` settings are read.
        frozen: Text configuration, grid and the weights of the MLLM's own layers.
        layer: The tapped layer L; the head starts from the MLLM's layers L and L+1.

    Raises:
        ConfigError: If transformers does not know the kind of the text configuration.
        CheckpointError: If a warm start is requested and the weights of L and L+1 are missing or do
            not fit.
    """

    def __init__(self, config: ModelConfig, frozen: FrozenParts, layer: int) -> None:
        super().__init__()
        self.grid = frozen.grid
        self.attention_rows = config.attention_rows
        self.attention_normalisation = config.attention_normalisation
        self.peak_headroom = config.peak_headroom
        self.network = _build_network(frozen.text_config, layer)
        if config.warm_start:
            self._warm_start(frozen.decoder_layers, layer)

    def forward(self, features: Features) -> HeadOutput:
        """Run a batch of B images with Q questions in all.

        Args:
            features: States of the prefix, of image tokens and of packed questions; any floating
                precision.
        """
        dtype = next(self.network.parameters()).dtype
        flat = FlatBatch.of(features)

        # Both layers, over every token of the batch once.
        text_rows = _TextRows(flat)
        states = self.network(
            inputs_embeds=flat.flatten(features).to(dtype),
            position_ids=flat.positions(),
            use_cache=False,
            text_rows=text_rows,
        ).last_hidden_state  # (1, tokens, d)
        _, image_states, text_states = flat.split(states[:, None])  # (B, 1, N, d), (B, 1, T, d)

        # Grounding map (eq. 1).
        log_rows = text_rows.log_attention
        assert log_rows is not None, "the network did not use the registered attention"
        owner, image, last = features.texts.owner, features.texts.image, features.texts.last
        log_map = aggregate_rows(log_rows, owner, image, last, self.attention_rows)
        grounding_map = normalise_map(log_map, self.attention_normalisation, self.peak_headroom)

        return HeadOutput(
            grounding_map=grounding_map.view(-1, *self.grid),
            image_features=image_states[:, 0],
            start_of_answer=text_states[image, 0, last],
            image=image,
        )

    def keep_first_layer(self) -> None:
        """Delete layer 2; enough where only the grounding map is needed."""
        del self.network.layers[1:]
        self.network.config.num_hidden_layers = 1

    def compile_layers(self) -> None:
        """Compile both layers with ``torch.compile``."""
        for layer in self.network.layers:
            layer.compile(dynamic=True)

    def _warm_start(self, weights: Mapping[int, Mapping[str, Tensor]], layer: int) -> None:
        """Copy the MLLM's layers L and L+1."""
        doing = f"warm-starting the head from layers {layer} and {layer + 1} of the MLLM"
        if layer not in weights:
            raise CheckpointError(
                f"{doing}: expected their weights in the store, found those of layers "
                f"{sorted(weights)}; set model.layer to one of them or model.warm_start=false"
            )
        load_strict(self.network.layers, weights[layer], doing, REWRITE_FROZEN_PARTS)


def _build_network(text_config: Mapping[str, Any], layer: int) -> Any:
    """Build a decoder of two layers without a token embedding."""
    settings = {
        **text_config,
        "num_hidden_layers": NUM_LAYERS,
        "vocab_size": 1,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if settings.get("layer_types"):
        kinds = settings["layer_types"][layer : layer + NUM_LAYERS]
        settings["layer_types"] = kinds + kinds[-1:] * (NUM_LAYERS - len(kinds))
    kind = settings.pop("model_type", None)
    try:
        config = AutoConfig.for_model(kind, **settings)
    except ValueError as error:
        raise ConfigError(
            f"building the head from the MLLM's text configuration, model_type {kind!r}: "
            f"{one_line(error, 120)}; extract with a LLaVA whose language model transformers knows"
        ) from None
    build: Any = AutoModel.from_config
    network = build(config, attn_implementation=ATTENTION_NAME, dtype=torch.float32)
    network.set_input_embeddings(nn.Identity())
    return network


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    text_rows: _TextRows | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend; layer 1 of the head also stores the attention of text tokens to image tokens.

    Only these rows are ever materialised: (B, heads, T, S) instead of (B, heads, S, S).
    """
    assert text_rows is not None
    assert attention_mask is None, "the layout of the batch replaces the mask"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    flat = text_rows.flat
    if module.layer_idx == 0:
        text_rows.log_attention = log_text_to_image_attention(query, key, scale, flat)
    output = flat.attend(query, key, value, scale)  # (1, heads, tokens, e)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION_NAME, _attend)
