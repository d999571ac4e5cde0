"""Stored precision: tokens in int8 or fp8, about half the bytes of bfloat16.

A *token* is one vector over channels: a row of hidden states, or one cell of SAM's embedding. The
bytes of a token, in this order:

- one byte per channel;
- the scale of the token, float32;
- int8 only: the values of the outlier channels in the model's precision;
- int8 only: the numbers of the outlier channels, uint16, ascending.

A language model has a few channels that are a hundred times stronger than the others. With one
scale for all channels, int8 would round the others to zero, so int8 stores the outliers separately
(after LLM.int8(), Dettmers et al. 2022, where all tokens have the same outliers; here each token
has its own). fp8 (e4m3) has relative steps and needs no outliers.
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
_CHANNELS_PER_OUTLIER = 512
_FP8_VALUES = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()


@dataclass(frozen=True, kw_only=True)
class TokenCode:
    """The encoding of the tokens of an array.

    Attributes:
        precision: Precision of all channels except the outliers.
        dtype: The model's precision, in which tokens are decoded.
        channels: Number of channels of a token.
    """

    precision: Literal["fp8", "int8"]
    dtype: Dtype
    channels: int

    @property
    def num_outliers(self) -> int:
        """Number of outlier channels of a token."""
        if self.precision == "fp8":
            return 0
        return max(1, self.channels // _CHANNELS_PER_OUTLIER)

    @property
    def token_bytes(self) -> int:
        """Number of bytes of an encoded token."""
        return self.channels + 4 + self.num_outliers * (self._dtype.itemsize + 2)

    def encode(self, tokens: Tensor) -> Tensor:
        """Encode tokens.

        Args:
            tokens: Finite values, shape (..., channels).

        Returns:
            Bytes, uint8, shape (..., token_bytes).
        """
        values, outlier_parts = tokens.float(), []
        if self.num_outliers:
            outliers = values.abs().topk(self.num_outliers, dim=-1).indices.sort(dim=-1).values
            outlier_values = tokens.to(self._dtype).gather(-1, outliers)
            outlier_parts = [outlier_values, outliers.to(torch.uint16)]
            values = values.scatter(-1, outliers, 0.0)
        scale = values.abs().amax(dim=-1, keepdim=True) / _LARGEST[self.precision]
        scale = torch.where(scale > 0, scale, 1.0)  # a token of zeros
        steps = values / scale
        if self.precision == "int8":
            steps = steps.round()
        parts = [steps.to(_STEPS[self.precision]), scale, *outlier_parts]
        return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=-1)

    def decode(self, data: Tensor) -> Tensor:
        """Decode tokens.

        Args:
            data: Bytes made by ``encode``, uint8, shape (..., token_bytes).

        Returns:
            Values in the model's precision, shape (..., channels).
        """
        k, size = self.num_outliers, self._dtype.itemsize
        parts = torch.split(data, [self.channels, 4, k * size, k * 2], dim=-1)
        steps, scale, outlier_values, outliers = parts
        values = _fp8_values(steps) if self.precision == "fp8" else steps.view(torch.int8).float()
        values *= scale.contiguous().view(torch.float32)
        tokens: Tensor = values.to(self._dtype)
        if k:
            channels = outliers.contiguous().view(torch.uint16).long()
            tokens.scatter_(-1, channels, outlier_values.contiguous().view(self._dtype))
        return tokens

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def _fp8_values(steps: Tensor) -> Tensor:
    """Convert fp8 bytes to float32; on a CPU a table is three times faster than the cast."""
    return torch.from_numpy(np.take(_FP8_VALUES, steps.numpy()))
