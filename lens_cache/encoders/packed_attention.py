"""Attention over a packed sequence, as transformers calls it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from lens_cache.features.attention import attend_packed

PACKED_ATTENTION = "lens_cache_packed"
PREFIX_ATTENTION = "lens_cache_prefix"
BEHIND_PREFIX_ATTENTION = "lens_cache_behind_prefix"
_REMEMBERED = ("prefix_query", "prefix_key", "prefix_value")


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
    """Attend causally in a prefix, and let the layer remember it."""
    for name, part in zip(_REMEMBERED, _grouped(query, key, value), strict=True):
        module.register_buffer(name, part, persistent=False)
    return _causal(*_grouped(query, key, value), scaling).transpose(1, 2).contiguous(), None


def _attend_behind_prefix(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    num_image: int = 0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend in images and their questions behind the prefix that the layer remembers.

    A GPU's fastest kernels take no mask, and the shared part needs none: it is most of the rows. It
    is run with the rows of the prefix, whose results are known, because then it is a plain square.

    Args:
        module: The attention layer.
        query: Shape (B, heads, N + T, e): N rows of the image, T of the questions.
        key: Shape (B, key heads, N + T, e).
        value: As ``key``.
        attention_mask: What is added to the scores of the questions, shape (B, 1, T, P + N + T).
        scaling: 1 / sqrt(e) if not given.
        num_image: N.
    """
    behind = _grouped(query, key, value)
    query, key, value = (
        torch.cat([getattr(module, name).expand(len(part), -1, -1, -1), part], dim=2)
        for name, part in zip(_REMEMBERED, behind, strict=True)
    )
    start = module.prefix_key.shape[2]
    end = start + num_image
    shared = _causal(query[:, :, :end], key[:, :, :end], value[:, :, :end], scaling)
    parts = [shared[:, :, start:]]
    if query.shape[2] > end:
        parts.append(
            F.scaled_dot_product_attention(
                query[:, :, end:], key, value, attn_mask=attention_mask, scale=scaling
            )
        )
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1), None


def _causal(query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)


def _grouped(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give every query head keys and values of its own."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return query, key, value
    return query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)


AttentionInterface.register(PACKED_ATTENTION, _attend)
AttentionInterface.register(PREFIX_ATTENTION, _attend_in_prefix)
AttentionInterface.register(BEHIND_PREFIX_ATTENTION, _attend_behind_prefix)
