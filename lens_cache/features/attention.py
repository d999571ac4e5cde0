"""Attention by the kernel that is fastest where it runs.

PyTorch's fused kernel is the best on GPUs, and on CPUs without gradients. Its backward on CPUs is
several times slower than two matrix products and a softmax.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lens_cache.features.packing import additive_mask


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Return softmax(scale * query key^T + mask) value.

    Args:
        query: Shape (B, heads, T, e).
        key: Shape (B, heads, S, e).
        value: Shape (B, heads, S, e).
        mask: Broadcastable to (B, heads, T, S): bool (True may attend; some key in every row), or
            what is added to the scores.
        scale: 1 / sqrt(e) if not given.
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(2, 3)
    if mask is not None:
        # In place, and a sum: its backward is nothing, that of filling another pass.
        scores += additive_mask(mask, scores.dtype) if mask.dtype == torch.bool else mask
    # Autocast would run the softmax in float32; the kernel sums in float32 inside anyway.
    with torch.autocast("cpu", enabled=False):
        return scores.softmax(dim=-1).to(value.dtype) @ value


def attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    num_shared: int,
    scale: float | None = None,
) -> Tensor:
    """Attend in a packed sequence (see ``packing``), without the columns that the mask hides.

    The shared part sees nothing behind it, so its rows need not look there.

    Args:
        query: Shape (B, heads, S, e).
        key: Shape (B, key heads, S, e); each serves a group of query heads.
        value: As ``key``.
        mask: That of ``packing.block_mask``, or what is added to the scores, (B, 1, S, S).
        num_shared: Length of the shared part.
        scale: 1 / sqrt(e) if not given.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    own = slice(0, num_shared)
    shared = attend(query[:, :, own], key[:, :, own], value[:, :, own], mask[:, :, own, own], scale)
    texts = attend(query[:, :, num_shared:], key, value, mask[:, :, num_shared:], scale)
    return torch.cat([shared, texts], dim=2)
