"""Attention over a packed sequence, as transformers calls it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from lens_cache.attention import attend_packed

PACKED_ATTENTION = "lens_cache_packed"
SPLIT_ATTENTION = "lens_cache_split"


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


def _attend_split(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    num_shared: int = 0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend causally in the shared part, and by a mask, shape (B, 1, T, S), in the T text rows.

    A GPU's fastest kernels take no mask, and the shared part needs none: it is most of the rows.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    shared, texts = query[:, :, :num_shared], query[:, :, num_shared:]
    parts = [
        F.scaled_dot_product_attention(
            shared, key[:, :, :num_shared], value[:, :, :num_shared], is_causal=True, scale=scaling
        )
    ]
    if texts.shape[2]:
        parts.append(
            F.scaled_dot_product_attention(
                texts, key, value, attn_mask=attention_mask, scale=scaling
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED_ATTENTION, _attend)
AttentionInterface.register(SPLIT_ATTENTION, _attend_split)
