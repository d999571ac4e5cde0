"""Attention over a packed sequence, as transformers calls it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import AttentionInterface

from lens_cache.attention import attend_packed

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
    output = attend_packed(query, key, value, attention_mask, num_shared, scaling)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(PACKED_ATTENTION, _attend)
