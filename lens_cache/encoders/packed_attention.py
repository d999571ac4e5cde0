"""Attention over a packed sequence, in two parts that skip most of what the mask would hide.

The shared part (prefix and image) is plainly causal and sees nothing behind it; only the rows of
the questions need a mask. The result is that of one attention under ``packing.block_mask``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

PACKED_ATTENTION = "lens_cache_packed"


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
    """Attend; all of shape (B, heads, S, head dimension), the mask (B, 1, S, S)."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    shared = _softmax(query, key, value, attention_mask, slice(0, num_shared), num_shared)
    texts = _softmax(query, key, value, attention_mask, slice(num_shared, None), None)
    return torch.cat([shared, texts], dim=2).transpose(1, 2).contiguous(), None


def _softmax(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, rows: slice, num_keys: int | None
) -> Tensor:
    """Plain attention of some rows to the first keys; on CPUs its backward beats SDPA's."""
    keys = slice(0, num_keys)
    scores = query[:, :, rows] @ key[:, :, keys].transpose(2, 3)
    return (scores + mask[:, :, rows, keys]).softmax(dim=-1) @ value[:, :, keys]


AttentionInterface.register(PACKED_ATTENTION, _attend)
