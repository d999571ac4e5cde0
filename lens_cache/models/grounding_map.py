"""From attention rows to a_c^1 (eq. 1)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

# Probabilities stay this far from 0 and 1, so that their logarithm is finite.
MARGIN = 1e-6


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
