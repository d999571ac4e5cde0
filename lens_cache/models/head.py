"""The segmentation head: two decoder layers of the MLLM's own kind (paper section 3.1).

Layer 1 turns text-to-image attention into a grounding map (eq. 1), layer 2 refines the features
(eq. 2). The head is causal like the MLLM, so all questions of an image share one pass over its
image tokens (see ``packing``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModel

from lens_cache.attention import attend_packed
from lens_cache.config import ModelConfig
from lens_cache.errors import CheckpointError, ConfigError
from lens_cache.frozen import FrozenParts
from lens_cache.packing import block_mask, last_positions, position_ids
from lens_cache.types import Features

NUM_LAYERS = 2
ATTENTION_NAME = "lens_cache_text_rows"
# Probabilities stay this far from 0 and 1, so that their logarithm is finite.
MARGIN = 1e-6


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
    """Travels through the network's keyword arguments and brings attention rows back."""

    image: slice
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
        batch = features.image_tokens.shape[0]
        dtype = next(self.network.parameters()).dtype
        prefix = features.prefix.expand(batch, -1, -1)
        sequence = torch.cat([prefix, features.image_tokens, features.texts.tokens], dim=1)
        owner = features.texts.owner
        num_prefix, num_image = prefix.shape[1], features.image_tokens.shape[1]
        num_shared = num_prefix + num_image
        rows = _TextRows(image=slice(num_prefix, num_shared))
        states = self.network(
            inputs_embeds=sequence.to(dtype),
            attention_mask=block_mask(num_shared, owner),
            position_ids=position_ids(num_shared, owner),
            use_cache=False,
            text_rows=rows,
        ).last_hidden_state
        assert rows.log_attention is not None, "the network did not use the registered attention"
        image, last = last_positions(owner, features.num_questions)
        grounding = aggregate_rows(rows.log_attention, owner, image, last, self.attention_rows)
        normalised = normalise_map(grounding, self.attention_normalisation, self.peak_headroom)
        return HeadOutput(
            grounding_map=normalised.view(-1, *self.grid),
            image_features=states[:, num_prefix:num_shared],
            start_of_answer=states[image, num_shared + last],
            image=image,
        )

    def checkpoint_activations(self) -> None:
        """Keep only each layer's input for the backward pass, and compute the rest there again."""
        self.network.gradient_checkpointing_enable({"use_reentrant": False})

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


def aggregate_rows(
    log_rows: Tensor, owner: Tensor, image: Tensor, last: Tensor, how: Literal["mean", "last"]
) -> Tensor:
    """Reduce the attention rows of each question's text tokens to one row, all in logarithms.

    Args:
        log_rows: Attention from text positions to image tokens, shape (B, T, N).
        owner: As in ``PackedTexts``, shape (B, T).
        image: Image of each question, shape (Q,).
        last: Text position of each question's last token, shape (Q,).
        how: ``mean`` over the question's tokens (eq. 1), or the ``last`` token's row.

    Returns:
        Shape (Q, N).
    """
    if how == "last":
        return log_rows[image, last]
    question = owner[image, last]
    mine = owner[image] == question[:, None]
    total = log_rows[image].masked_fill(~mine[:, :, None], -torch.inf).logsumexp(dim=1)
    return total - mine.sum(dim=1, keepdim=True).log()


def normalise_map(
    log_values: Tensor, how: Literal["peak", "sum", "none"], headroom: float = 1.05
) -> Tensor:
    """Bring softmax values to the range in which eq. 5 compares them with a mask.

    A softmax row cannot be near 1 on a whole region, so raw values cannot reach their target. How
    much of a row falls on the image at all is free, and training may drive it below what a float
    can hold: hence logarithms.

    Args:
        log_values: Logarithms of each question's responses, shape (Q, N).
        how: ``peak`` divides by ``headroom`` times the detached peak and keeps a margin to 0 and 1,
            ``sum`` makes each row sum to 1, ``none`` changes nothing.
        headroom: Above 1 the peak stays below the upper clamp, so a wrong peak gets a gradient.

    Returns:
        The responses themselves, shape (Q, N).
    """
    if how == "none":
        return log_values.exp()
    if how == "sum":
        return log_values.softmax(dim=1)
    peak = log_values.detach().amax(dim=1, keepdim=True)
    return ((log_values - peak).exp() / headroom).clamp(MARGIN, 1 - MARGIN)


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
    assert attention_mask is not None
    shared = text_rows.image.stop
    if module.layer_idx == 0:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        text_rows.log_attention = _log_attention(
            query[:, :, shared:], key, attention_mask[:, :, shared:], scale, text_rows.image
        )
    output = attend_packed(query, key, value, attention_mask, shared, scaling)
    return output.transpose(1, 2).contiguous(), None


def _log_attention(
    rows: Tensor, key: Tensor, allowed: Tensor, scale: float, columns: slice
) -> Tensor:
    """Return the logarithm of eq. 1's attention to some positions, mean over heads.

    Args:
        rows: Queries of shape (B, heads, T, head dimension).
        key: Shape (B, key heads, S, head dimension); each serves a group of query heads.
        allowed: Bool mask of shape (B, 1, T, S).
        scale: Factor on the dot products.
        columns: Positions attended to that are wanted.

    Returns:
        Shape (B, T, columns), float32 (float64 for double inputs) under autocast too.
    """
    dtype = torch.promote_types(rows.dtype, torch.float32)
    heads = rows.shape[1]
    with torch.autocast(rows.device.type, enabled=False):
        keys = key.to(dtype).repeat_interleave(heads // key.shape[1], dim=1)
        scores = (rows.to(dtype) @ keys.transpose(2, 3)) * scale
        # Not -inf: a row of padding sees no column, and its gradient would be NaN.
        scores = scores.masked_fill(~allowed, torch.finfo(dtype).min)
        log_attention = scores.log_softmax(dim=-1)[..., columns]
        return log_attention.logsumexp(dim=1) - math.log(heads)


AttentionInterface.register(ATTENTION_NAME, _attend)
