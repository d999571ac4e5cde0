"""The grounding map a_c^1 of eq. 1: how strongly each image token answers a question.

Three steps lead from layer 1 of the head to the map:

1. ``log_text_to_image_attention``: attention of every text token to every image token, mean over
   heads. Only these rows of the attention matrix are computed.
2. ``aggregate_rows``: one row for each question, the mean over its tokens or its last token's row.
3. ``normalise_map``: values in the range in which eq. 5 compares them with a mask.

The first two work on logarithms: training may lower the share of attention that falls on the image
below the smallest float.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lens_cache.features.flat_batch import FlatBatch

# Distance of probabilities from 0 and 1, so that the logarithms of eq. 5 are finite.
MARGIN = 1e-6


def log_text_to_image_attention(
    query: Tensor, key: Tensor, scale: float, flat: FlatBatch
) -> Tensor:
    """Return the logarithm of eq. 1's attention of text tokens to image tokens, mean over heads.

    Args:
        query: Shape (1, heads, tokens, e).
        key: Shape (1, key heads, tokens, e).
        scale: Factor on the dot products.
        flat: Layout of the tokens.

    Returns:
        Shape (B, T, N), float32 (float64 for float64 inputs), also under autocast.
    """
    num_heads = query.shape[1]
    image_columns = slice(flat.num_prefix, flat.num_shared)
    with torch.autocast(query.device.type, enabled=False):
        scores = flat.text_scores(query, key, scale)  # (B, heads, T, P + N + T)
        log_attention = scores.log_softmax(dim=-1)[..., image_columns]  # (B, heads, T, N)
        return log_attention.logsumexp(dim=1) - math.log(num_heads)


def aggregate_rows(
    log_rows: Tensor, owner: Tensor, image: Tensor, last: Tensor, how: Literal["mean", "last"]
) -> Tensor:
    """Reduce the attention rows of each question's tokens to one row, in logarithms.

    Args:
        log_rows: Logarithms of the attention of text to image tokens, shape (B, T, N).
        owner: As in ``PackedTexts``, shape (B, T).
        image: Index of each question's image, shape (Q,).
        last: Index of each question's last token in its row of ``owner``, shape (Q,).
        how: ``mean`` over the question's tokens (eq. 1), or the ``last`` token's row.

    Returns:
        Shape (Q, N).
    """
    if how == "last":
        return log_rows[image, last]
    question = owner[image, last]
    is_own = owner[image] == question[:, None]  # (Q, T)
    total = log_rows[image].masked_fill(~is_own[:, :, None], -torch.inf).logsumexp(dim=1)
    return total - is_own.sum(dim=1, keepdim=True).log()


def normalise_map(
    log_values: Tensor, how: Literal["peak", "sum", "none"], headroom: float = 1.05
) -> Tensor:
    """Bring softmax values to the range in which eq. 5 compares them with a mask.

    A softmax row sums to 1 over all tokens, so its raw values cannot be near 1 on a whole region.

    Args:
        log_values: Logarithms of each question's responses, shape (Q, N).
        how: ``peak`` divides by ``headroom`` times the detached peak and clamps to ``MARGIN`` from
            0 and 1, ``sum`` makes each row sum to 1, ``none`` changes nothing.
        headroom: A value above 1 keeps the peak below the upper clamp, where it has a gradient.

    Returns:
        The responses, no longer logarithms, shape (Q, N).
    """
    if how == "none":
        return log_values.exp()
    if how == "sum":
        return log_values.softmax(dim=1)
    peak = log_values.detach().amax(dim=1, keepdim=True)
    return ((log_values - peak).exp() / headroom).clamp(MARGIN, 1 - MARGIN)
