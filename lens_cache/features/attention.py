"""Attention by the fastest implementation for a device.

PyTorch's fused kernel is the fastest on GPUs, and on CPUs without gradients. On CPUs its backward
is several times slower than that of two matrix products and a softmax.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lens_cache.features.packing import additive_mask

_UNPLANNED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


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
        mask: Broadcastable to (B, heads, T, S). Bool: True may attend, at least once in each row.
            Floating point: added to the scores.
        scale: Factor on the dot products; 1 / sqrt(e) if not given.

    Returns:
        Shape (B, heads, T, e), in the dtype of ``value``.
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return fused(query, key, value, mask, scale)
    if scale is None:
        scale = query.shape[-1] ** -0.5
    scores = (query * scale) @ key.transpose(2, 3)  # (B, heads, T, S)
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = additive_mask(mask, scores.dtype)
        # A sum has no work in its backward; masked_fill would need a pass over the scores.
        scores += mask
    # Autocast would run the softmax in float32; the kernel accumulates in float32 anyway.
    with torch.autocast("cpu", enabled=False):
        return scores.softmax(dim=-1).to(value.dtype) @ value


def fused(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float | None = None
) -> Tensor:
    """Attend by one of PyTorch's fused kernels; arguments as for ``attend``.

    With a mask not by cuDNN: it plans each new shape for about half a second, and text has many.
    """
    planned = sdpa_kernel(_UNPLANNED) if query.is_cuda and mask is not None else nullcontext()
    with planned:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)


def attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    num_shared: int,
    scale: float | None = None,
) -> Tensor:
    """Attend in a packed sequence (see ``packing``), in two parts.

    The shared part does not attend to the questions, so those scores are not computed.

    Args:
        query: Shape (B, heads, S, e).
        key: Shape (B, key heads, S, e); each key head serves a group of query heads.
        value: As ``key``.
        mask: From ``packing.block_mask``, as bool or as ``packing.additive_mask``, (B, 1, S, S).
        num_shared: Length of the shared part.
        scale: Factor on the dot products; 1 / sqrt(e) if not given.

    Returns:
        Shape (B, heads, S, e).
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    shared = slice(0, num_shared)
    texts = slice(num_shared, None)
    of_shared = attend(
        query[:, :, shared],
        key[:, :, shared],
        value[:, :, shared],
        mask[:, :, shared, shared],
        scale,
    )
    of_texts = attend(query[:, :, texts], key, value, mask[:, :, texts], scale)
    return torch.cat([of_shared, of_texts], dim=2)
