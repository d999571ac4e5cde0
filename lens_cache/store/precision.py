"""Stored precision: a token in half the bytes, with a scale of its own.

A *token* is one vector over channels: a row of hidden states, a cell of SAM's embedding. Its bytes
stand together: one a channel, then the scale as float32; for int8 then the strongest channels in
the model's precision, then their numbers as uint16, ascending.

A language model has a few channels a hundred times stronger than the rest; one scale for all would
leave the rest no digits, so int8 keeps them apart (after LLM.int8(), Dettmers et al. 2022, where
they are the same for all tokens; here each token has its own). fp8 (e4m3) needs no such care, its
steps are relative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lens_cache.config.fields import Dtype

_STEPS = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}
_LARGEST = {"fp8": torch.finfo(torch.float8_e4m3fn).max, "int8": 127.0}
_CHANNELS_PER_STRONG = 512
_FP8_VALUES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()


@dataclass(frozen=True, kw_only=True)
class TokenCode:
    """How the tokens of an array are written.

    Attributes:
        precision: Of all channels but the strong ones.
        dtype: The model's, which decoding returns.
        channels: Values of a token.
    """

    precision: Literal["fp8", "int8"]
    dtype: Dtype
    channels: int

    @property
    def num_strong(self) -> int:
        """Channels of a token that are kept apart."""
        if self.precision == "fp8":
            return 0
        return max(1, self.channels // _CHANNELS_PER_STRONG)

    @property
    def token_bytes(self) -> int:
        """Bytes of a token."""
        return self.channels + 4 + self.num_strong * (self._dtype.itemsize + 2)

    def encode(self, tokens: Tensor) -> Tensor:
        """Return finite tokens, shape (..., channels), as bytes, shape (..., token_bytes)."""
        values, parts = tokens.float(), []
        if self.num_strong:
            strong = values.abs().topk(self.num_strong, dim=-1).indices.sort(dim=-1).values
            kept = tokens.to(self._dtype).gather(-1, strong)
            parts = [kept, strong.to(torch.uint16)]
            values = values.scatter(-1, strong, 0.0)
        scale = values.abs().amax(dim=-1, keepdim=True) / _LARGEST[self.precision]
        scale = torch.where(scale > 0, scale, 1.0)  # a token of zeros has none
        steps = values / scale
        steps = steps.round() if self.precision == "int8" else steps
        parts = [steps.to(_STEPS[self.precision]), scale, *parts]
        return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=-1)

    def decode(self, data: Tensor) -> Tensor:
        """Return the tokens in what ``encode`` made of them."""
        k, size = self.num_strong, self._dtype.itemsize
        steps, scale, kept, strong = torch.split(data, [self.channels, 4, k * size, k * 2], dim=-1)
        values = _fp8_values(steps) if self.precision == "fp8" else steps.view(torch.int8).float()
        values *= scale.contiguous().view(torch.float32)
        tokens: Tensor = values.to(self._dtype)
        if k:
            numbers = strong.contiguous().view(torch.uint16).long()
            tokens.scatter_(-1, numbers, kept.contiguous().view(self._dtype))
        return tokens

    @property
    def _dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.dtype)
        return found


def _fp8_values(steps: Tensor) -> Tensor:
    """Return bytes of fp8 as float32; on a CPU a table is three times faster than the cast."""
    return torch.from_numpy(np.take(_FP8_VALUES, steps.numpy()))
