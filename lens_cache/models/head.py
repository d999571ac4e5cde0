"""The segmentation head: two decoder layers of the MLLM's own kind (paper section 3.1).

Layer 1 turns text-to-image attention into a grounding map (eq. 1), layer 2 refines the features
(eq. 2). The head is causal like the MLLM, so all questions of an image share one pass over its
image tokens (see ``packing``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModel

from lens_cache.config.train import ModelConfig
from lens_cache.errors import CheckpointError, ConfigError
from lens_cache.features.flat_batch import FlatBatch
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.packing import last_positions
from lens_cache.features.types import Features
from lens_cache.models.grounding_map import aggregate_rows, normalise_map

NUM_LAYERS = 2
ATTENTION_NAME = "lens_cache_text_rows"


@dataclass(frozen=True)
class HeadOutput:
    """What the head says about Q questions on B images.

    Attributes:
        grounding_map: A_c^1 after normalisation, float32, shape (Q, rows, columns).
        image_features: H_out^2 of the image tokens, row-major over the grid, shape (B, N, d).
        start_of_answer: f_s^2, the state of each question's last token, shape (Q, d).
        image: Which image a question belongs to, int64, shape (Q,).
    """

    grounding_map: Tensor
    image_features: Tensor
    start_of_answer: Tensor
    image: Tensor


@dataclass
class _TextRows:
    """Travels through the network's keyword arguments and brings attention rows back.

    Attributes:
        flat: What belongs together in the sequence.
        log_attention: The logarithm of eq. 1's attention to image tokens, (B, T, N).
    """

    flat: FlatBatch
    log_attention: Tensor | None = None


class SegmentationHead(nn.Module):
    """Two decoder layers with their own rotary embedding and final norm.

    The final norm is new, as in the released code; its epsilon is the MLLM's.

    Args:
        config: ``warm_start`` and the ``attention_*`` settings matter here.
        frozen: Text configuration, grid and the weights of the MLLM's own layers.
        layer: The tapped layer L; the head starts from the MLLM's layers L and L+1.

    Raises:
        ConfigError: If the text configuration is of a kind that transformers does not know.
        CheckpointError: If a warm start is asked for and the weights of L and L+1 do not fit or
            are not there.
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
        """Read a batch of B images with Q questions in all.

        Args:
            features: States of prefix, image tokens and packed questions; any floating precision.
        """
        dtype = next(self.network.parameters()).dtype
        owner, flat = features.texts.owner, FlatBatch.of(features)
        rows = _TextRows(flat)
        states = self.network(
            inputs_embeds=flat.flatten(features).to(dtype),
            position_ids=flat.positions(),
            use_cache=False,
            text_rows=rows,
        ).last_hidden_state
        assert rows.log_attention is not None, "the network did not use the registered attention"
        image, last = last_positions(owner, features.num_questions)
        grounding = aggregate_rows(rows.log_attention, owner, image, last, self.attention_rows)
        normalised = normalise_map(grounding, self.attention_normalisation, self.peak_headroom)
        _, image_features, texts = flat.split(states[:, None])
        return HeadOutput(
            grounding_map=normalised.view(-1, *self.grid),
            image_features=image_features[:, 0],
            start_of_answer=texts[image, 0, last],
            image=image,
        )

    def keep_first_layer(self) -> None:
        """Drop the second layer, for whom only the grounding map matters."""
        del self.network.layers[1:]
        self.network.config.num_hidden_layers = 1

    def compile_layers(self) -> None:
        """Let torch.compile make kernels for the layers."""
        for layer in self.network.layers:
            layer.compile(dynamic=True)

    def _warm_start(self, weights: Mapping[int, Mapping[str, Tensor]], layer: int) -> None:
        """Copy the MLLM's layers L and L+1."""
        doing = f"warm-starting the head from layers {layer} and {layer + 1} of the MLLM"
        if layer not in weights:
            raise CheckpointError(
                f"{doing}: their weights are not in the store, which has layers "
                f"{sorted(weights)}; choose one of them or set model.warm_start=false"
            )
        try:
            self.network.layers.load_state_dict(dict(weights[layer]), strict=True)
        except RuntimeError as error:
            raise CheckpointError(f"{doing}: {' '.join(str(error).split())}") from None


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
        first = str(error).split(",")[0].split("\n")[0]
        raise ConfigError(f"building the head as the MLLM's own layers: {first}") from None
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
    """Attend; in layer 1 of the head also keep the attention of text positions to the image.

    Only these rows are ever materialised: (B, heads, T, S) instead of (B, heads, S, S).
    """
    assert text_rows is not None
    assert attention_mask is None, "the flat batch says what may be attended to"
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if module.layer_idx == 0:
        text_rows.log_attention = _log_attention(query, key, scale, text_rows.flat)
    output = text_rows.flat.attend(query, key, value, scale)
    return output.transpose(1, 2).contiguous(), None


def _log_attention(query: Tensor, key: Tensor, scale: float, flat: FlatBatch) -> Tensor:
    """Return the logarithm of eq. 1's attention of questions to their image, mean over heads.

    Args:
        query: Shape (1, heads, tokens, head dimension).
        key: Shape (1, key heads, tokens, head dimension).
        scale: Factor on the dot products.
        flat: What belongs together.

    Returns:
        Shape (B, T, N), float32 (float64 for double inputs) under autocast too.
    """
    with torch.autocast(query.device.type, enabled=False):
        columns = slice(flat.num_prefix, flat.num_shared)
        log_attention = flat.text_scores(query, key, scale).log_softmax(dim=-1)[..., columns]
        return log_attention.logsumexp(dim=1) - math.log(query.shape[1])


AttentionInterface.register(ATTENTION_NAME, _attend)
