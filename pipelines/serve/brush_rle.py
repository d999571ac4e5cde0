"""The run-length encoding of Label Studio's brush labels.

The format is that of the JavaScript package ``@thi.ng/rle-pack``, most significant bit first:

* 32 bits: the number of values; 5 bits: bits per value, minus 1; four times 4 bits: the sizes of
  run lengths, minus 1;
* for each run: the bit 1, 2 bits that choose a size, the length minus 1 in that many bits, and the
  value;
* zeros up to a full byte.

The values are the RGBA channels of the mask, row by row: four times 255 inside, four times 0
outside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHANNELS = 4
_VALUE_BITS = 8
_SIZES = np.array([3, 4, 8, 16])
# Most values of a run of each size.
_LONGEST = 1 << _SIZES


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """Encode a mask of shape (H, W), not empty in size, as bytes from 0 to 255."""
    pixels = mask.ravel()
    ends = np.append(np.flatnonzero(pixels[1:] != pixels[:-1]) + 1, pixels.size)
    lengths, values = _split(
        np.diff(ends, prepend=0) * _CHANNELS, np.where(pixels[ends - 1], 255, 0)
    )
    sizes = np.searchsorted(_LONGEST, lengths)
    code = (0b100 | sizes) << _SIZES[sizes]
    code = (code | (lengths - 1)) << _VALUE_BITS | values
    header = [(pixels.size * _CHANNELS, 32), (_VALUE_BITS - 1, 5)]
    header += [(int(size) - 1, 4) for size in _SIZES]
    numbers, widths = (np.array(column) for column in zip(*header, strict=True))
    bits = np.concatenate([_bits(numbers, widths), _bits(code, 3 + _SIZES[sizes] + _VALUE_BITS)])
    return [int(byte) for byte in np.packbits(bits)]


def _split(
    lengths: NDArray[np.int64], values: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split runs that are longer than the largest size can say."""
    longest = int(_LONGEST[-1])
    parts = -(-lengths // longest)
    split = np.full(int(parts.sum()), longest, dtype=np.int64)
    split[parts.cumsum() - 1] = lengths - (parts - 1) * longest
    return split, np.repeat(values, parts)


def _bits(numbers: NDArray[np.int64], widths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Write each number with its width, the most significant bit first."""
    widest = int(widths.max())
    places = np.arange(widest - 1, -1, -1)
    table = (numbers[:, None] >> places) & 1
    return table[places < widths[:, None]].astype(np.uint8)
