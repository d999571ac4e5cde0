"""Masks as the losses compare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lens_cache.config.train import LossConfig
from lens_cache.features.types import move
from lens_cache.images import masks
from lens_cache.images.geometry import inside_image, mask_to_square
from lens_cache.images.masks import Rle
from lens_cache.plan.plan import PlannedQuery


def make_targets(queries: Sequence[PlannedQuery], loss: LossConfig) -> Targets:
    """Bring the masks of queries about one image to what the losses compare with.

    Pixels to be ignored are not compared, nor is padding but by the attention loss.
    """
    attention, compared = [], []
    found: list[Tensor] = []
    valid: list[Tensor] = []
    for query in queries:
        target, ignore = query.target(), query.ignore()
        height, width = query.size
        attention.append(_in_square(target, loss.attention_size))
        compared.append(_counts(ignore, loss.attention_size))
        if loss.mask_size is None:
            found.append(torch.from_numpy(masks.decode(target)))
            ignored = masks.decode(ignore) if ignore else np.zeros((height, width), np.bool_)
            valid.append(torch.from_numpy(~ignored))
        else:
            found.append(_in_square(target, loss.mask_size))
            inside = torch.from_numpy(inside_image(width, height, loss.mask_size))
            valid.append(inside & _counts(ignore, loss.mask_size))
    square = loss.mask_size is not None
    return Targets(
        attention=torch.stack(attention),
        attention_valid=torch.stack(compared),
        masks=torch.stack(found) if square else found,
        valid=torch.stack(valid) if square else valid,
    )


def _in_square(mask: Rle, size: int) -> Tensor:
    return torch.from_numpy(mask_to_square(mask, size))


def _counts(ignore: Rle | None, size: int) -> Tensor:
    """Return which pixels of the square are not to be ignored, bool, (size, size)."""
    return torch.ones(size, size, dtype=torch.bool) if ignore is None else ~_in_square(ignore, size)


@dataclass(frozen=True)
class Targets:
    """What the answers to Q questions should have been.

    Attributes:
        attention: Masks in the square, bool, shape (Q, s, s); padding is background.
        attention_valid: Which of those pixels are compared, bool, shape (Q, s, s).
        masks: Either a list of Q masks at the resolution of their images, bool, shapes (H, W), or
            masks in the square, bool, shape (Q, n, n).
        valid: Which of those pixels are compared, in the same form.
    """

    attention: Tensor
    attention_valid: Tensor
    masks: Sequence[Tensor] | Tensor
    valid: Sequence[Tensor] | Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Targets]) -> Targets:
        """Put the targets of several images one after another; all of one form."""
        return cls(
            attention=torch.cat([part.attention for part in parts]),
            attention_valid=torch.cat([part.attention_valid for part in parts]),
            masks=_concatenate([part.masks for part in parts]),
            valid=_concatenate([part.valid for part in parts]),
        )

    def to(self, device: torch.device | str) -> Targets:
        """Move to a device."""
        return self._map(lambda masks: move(masks, device))

    def pin_memory(self) -> Targets:
        """Copy to memory from which a GPU can fetch by itself."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Targets:
        def each(masks: Sequence[Tensor] | Tensor) -> Sequence[Tensor] | Tensor:
            return change(masks) if isinstance(masks, Tensor) else [change(mask) for mask in masks]

        return Targets(
            attention=change(self.attention),
            attention_valid=change(self.attention_valid),
            masks=each(self.masks),
            valid=each(self.valid),
        )


def _concatenate(parts: Sequence[Sequence[Tensor] | Tensor]) -> Sequence[Tensor] | Tensor:
    square = [part for part in parts if isinstance(part, Tensor)]
    return torch.cat(square) if square else [mask for part in parts for mask in part]
