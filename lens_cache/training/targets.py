"""Target masks at the resolutions of the losses."""

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
from lens_cache.plan.planned import PlannedQuery


def make_targets(queries: Sequence[PlannedQuery], loss: LossConfig) -> Targets:
    """Resize the masks of queries about one image to the resolutions of the losses.

    Ignored pixels are never compared. Padding of the square is compared by the attention loss only.
    """
    pairs = [
        _image_masks(query) if loss.mask_size is None else _square_masks(query, loss.mask_size)
        for query in queries
    ]
    size = loss.attention_size
    return Targets(
        attention=torch.stack([_in_square(query.target(), size) for query in queries]),
        attention_valid=torch.stack([_not_ignored(query.ignore(), size) for query in queries]),
        masks=[mask for mask, _ in pairs],
        valid=[valid for _, valid in pairs],
    )


def _image_masks(query: PlannedQuery) -> tuple[Tensor, Tensor]:
    """Return the mask and the valid pixels at the resolution of the image, bool, (H, W)."""
    ignore = query.ignore()
    ignored = np.zeros(query.size, np.bool_) if ignore is None else masks.decode(ignore)
    return torch.from_numpy(masks.decode(query.target())), torch.from_numpy(~ignored)


def _square_masks(query: PlannedQuery, size: int) -> tuple[Tensor, Tensor]:
    """Return the mask and the valid pixels in the square, bool, (size, size)."""
    height, width = query.size
    inside = torch.from_numpy(inside_image(width, height, size))
    return _in_square(query.target(), size), inside & _not_ignored(query.ignore(), size)


def _in_square(mask: Rle, size: int) -> Tensor:
    return torch.from_numpy(mask_to_square(mask, size))


def _not_ignored(ignore: Rle | None, size: int) -> Tensor:
    """Return which pixels of the square are not ignored, bool, (size, size)."""
    return torch.ones(size, size, dtype=torch.bool) if ignore is None else ~_in_square(ignore, size)


@dataclass(frozen=True)
class Targets:
    """The targets of Q questions.

    Attributes:
        attention: Masks in the square, bool, shape (Q, s, s); padding is background.
        attention_valid: Which of those pixels are compared, bool, shape (Q, s, s).
        masks: Q masks, bool: of shape (H, W) at the resolution of each image if ``mask_size`` is
            None, otherwise of shape (mask_size, mask_size) in the square.
        valid: Which of those pixels are compared, in the same shapes.
    """

    attention: Tensor
    attention_valid: Tensor
    masks: Sequence[Tensor]
    valid: Sequence[Tensor]

    @classmethod
    def concatenate(cls, parts: Sequence[Targets]) -> Targets:
        """Concatenate the targets of several images."""
        return cls(
            attention=torch.cat([part.attention for part in parts]),
            attention_valid=torch.cat([part.attention_valid for part in parts]),
            masks=[mask for part in parts for mask in part.masks],
            valid=[mask for part in parts for mask in part.valid],
        )

    def to(self, device: torch.device | str) -> Targets:
        """Move to a device."""
        return self._map(lambda masks: move(masks, device))

    def pin_memory(self) -> Targets:
        """Copy to pinned memory."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Targets:
        return Targets(
            attention=change(self.attention),
            attention_valid=change(self.attention_valid),
            masks=[change(mask) for mask in self.masks],
            valid=[change(mask) for mask in self.valid],
        )
