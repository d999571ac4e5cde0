"""The segmentation head: two decoder layers of the MLLM's own kind (paper section 3.1).

Layer 1 turns text-to-image attention into a grounding map (eq. 1), layer 2 refines the features
(eq. 2). The head is causal like the MLLM, so all questions of an image share one pass over its
image tokens (see ``packing``).
"""

from __future__ import annotations

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

    num_shared: int
    values: Tensor | None = None


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
        rows = _TextRows(num_shared)
        states = self.network(
            inputs_embeds=sequence.to(dtype),
            attention_mask=block_mask(num_shared, owner),
            position_ids=position_ids(num_shared, owner),
            use_cache=False,
            text_rows=rows,
        ).last_hidden_state
        assert rows.values is not None, "the network did not use the registered attention"
        image, last = last_positions(owner, features.num_questions)
        to_image = rows.values[..., num_prefix:num_shared]
        grounding = aggregate_rows(to_image, owner, image, last, self.attention_rows)
        normalised = normalise_map(grounding, self.attention_normalisation, self.peak_headroom)
        return HeadOutput(
            grounding_map=normalised.view(-1, *self.grid),
            image_features=states[:, num_prefix:num_shared],
            start_of_answer=states[image, num_shared + last],
            image=image,
        )

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
    rows: Tensor, owner: Tensor, image: Tensor, last: Tensor, how: Literal["mean", "last"]
) -> Tensor:
    """Reduce the attention rows of each question's text tokens to one row.

    Args:
        rows: Attention from text positions to image tokens, shape (B, T, N).
        owner: As in ``PackedTexts``, shape (B, T).
        image: Image of each question, shape (Q,).
        last: Text position of each question's last token, shape (Q,).
        how: ``mean`` over the question's tokens (eq. 1), or the ``last`` token's row.

    Returns:
        Shape (Q, N).
    """
    if how == "last":
        return rows[image, last]
    question = owner[image, last]
    mine = (owner[image] == question[:, None]).to(rows.dtype)
    weights = mine / mine.sum(dim=1, keepdim=True)
    return (weights[:, :, None] * rows[image]).sum(dim=1)  # no matmul: autocast would round it


def normalise_map(
    values: Tensor, how: Literal["peak", "sum", "none"], headroom: float = 1.05
) -> Tensor:
    """Bring softmax values to the range in which eq. 5 compares them with a mask.

    A softmax row cannot be near 1 on a whole region, so raw values cannot reach their target.

    Args:
        values: Non-negative responses of each question, shape (Q, N).
        how: ``peak`` divides by ``headroom`` times the detached peak and keeps a margin to 0 and 1,
            ``sum`` makes each row sum to 1, ``none`` changes nothing.
        headroom: Above 1 the peak stays below the upper clamp, so a wrong peak gets a gradient.
    """
    if how == "none":
        return values
    tiny = torch.finfo(values.dtype).tiny
    if how == "sum":
        return values / values.sum(dim=1, keepdim=True).clamp(min=tiny)
    peak = values.detach().amax(dim=1, keepdim=True).clamp(min=tiny)
    return (values / (headroom * peak)).clamp(MARGIN, 1 - MARGIN)


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
    """Attend; in layer 1 of the head also keep the softmax rows of the text positions.

    Only these rows are ever materialised: (B, heads, T, S) instead of (B, heads, S, S).
    """
    assert text_rows is not None
    assert attention_mask is not None
    if module.layer_idx == 0:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        text_rows.values = _softmax_rows(query, key, attention_mask, scale, text_rows.num_shared)
    output = attend_packed(query, key, value, attention_mask, text_rows.num_shared, scaling)
    return output.transpose(1, 2).contiguous(), None


def _softmax_rows(query: Tensor, key: Tensor, allowed: Tensor, scale: float, start: int) -> Tensor:
    """Return eq. 1's attention of the positions from ``start`` on, mean over heads.

    Args:
        query: Shape (B, heads, S, head dimension).
        key: Shape (B, key heads, S, head dimension); each serves a group of query heads.
        allowed: Bool mask of shape (B, 1, S, S).
        scale: Factor on the dot products.
        start: First row that is wanted.

    Returns:
        Shape (B, S - start, S), float32 (float64 for double inputs) under autocast too.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        rows = query[:, :, start:].to(dtype)
        keys = key.to(dtype).repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scores = (rows @ keys.transpose(2, 3)) * scale
        scores = scores.masked_fill(~allowed[:, :, start:], -torch.inf)
        return scores.softmax(dim=-1).mean(dim=1)


AttentionInterface.register(ATTENTION_NAME, _attend)
