"""Attention functions for packed sequences, registered with transformers by name."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from lens_cache.features.attention import attend_packed, fused

PACKED_ATTENTION = "lens_cache_packed"
PREFIX_ATTENTION = "lens_cache_prefix"
AFTER_PREFIX_ATTENTION = "lens_cache_after_prefix"
# Buffers in which an attention layer stores the prefix.
_PREFIX_BUFFERS = ("prefix_query", "prefix_key", "prefix_value")


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    num_shared: int = 0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend in a whole packed sequence with ``attend_packed``."""
    output = attend_packed(query, key, value, attention_mask, num_shared, scaling)
    return output.transpose(1, 2).contiguous(), None


def _attend_in_prefix(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend causally in the prefix, and store its queries, keys and values in the layer."""
    parts = _repeat_key_heads(query, key, value)
    for name, part in zip(_PREFIX_BUFFERS, parts, strict=True):
        module.register_buffer(name, part, persistent=False)
    return _causal(*parts, scaling).transpose(1, 2).contiguous(), None


def _attend_after_prefix(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    num_image: int = 0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend in image tokens and questions, after the prefix that the layer stores.

    The fastest GPU kernels take no mask. Prefix and image, most of the rows, need none: they form a
    square causal block. The rows of the prefix are computed again only to make the block square.

    Args:
        module: The attention layer.
        query: Shape (B, heads, N + T, e), N image tokens and T text tokens.
        key: Shape (B, key heads, N + T, e).
        value: As ``key``.
        attention_mask: Added to the scores of the text tokens, shape (B, 1, T, P + N + T).
        scaling: Factor on the dot products; 1 / sqrt(e) if not given.
        num_image: N.
    """
    batch = len(query)
    parts = _repeat_key_heads(query, key, value)
    query, key, value = (
        torch.cat([getattr(module, name).expand(batch, -1, -1, -1), part], dim=2)
        for name, part in zip(_PREFIX_BUFFERS, parts, strict=True)
    )  # (B, heads, P + N + T, e)
    num_prefix = module.prefix_key.shape[2]
    num_shared = num_prefix + num_image

    # Prefix and image: causal, no mask.
    shared = slice(0, num_shared)
    output = _causal(query[:, :, shared], key[:, :, shared], value[:, :, shared], scaling)
    outputs = [output[:, :, num_prefix:].transpose(1, 2)]  # (B, N, heads, e)

    # Text: the mask keeps questions apart.
    if query.shape[2] > num_shared:
        output = fused(query[:, :, num_shared:], key, value, attention_mask, scaling)
        outputs.append(output.transpose(1, 2))  # (B, T, heads, e)
    return torch.cat(outputs, dim=1), None


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)


def _repeat_key_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Repeat keys and values for every query head of their group."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return query, key, value
    return query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


AttentionInterface.register(PACKED_ATTENTION, _attend)
AttentionInterface.register(PREFIX_ATTENTION, _attend_in_prefix)
AttentionInterface.register(AFTER_PREFIX_ATTENTION, _attend_after_prefix)
