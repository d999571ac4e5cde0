"""Label Studio's run-length encoding, read back by a slow decoder written from the format."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipelines.serve.brush_rle import encode


def decoded(data):
    """Return the values of an encoding, one bit after the other."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(count):
        nonlocal place
        assert place + count <= len(bits)
        number = int(bits[place : place + count], 2)
        place += count
        return number

    total = read(32)
    width = read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < total:
        run = read(1)
        length = read(sizes[read(2)]) + 1
        if run:
            values += [read(width)] * length
        else:
            values += [read(width) for _ in range(length)]
    assert len(values) == total
    assert len(bits) - place < 8
    assert "1" not in bits[place:]
    return values


def channels(mask):
    """Return the RGBA values of a mask, row by row."""
    return [255 if inside else 0 for row in mask.tolist() for inside in row for _ in range(4)]


@given(arrays.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_a_mask_is_read_back(mask):
    assert decoded(encode(mask)) == channels(mask)


# In pixels; a run has four values for each, and sizes change at 8, 16, 256 and 65,536 values.
@pytest.mark.parametrize(
    "run", [1, 2, 3, 4, 5, 63, 64, 65, 16383, 16384, 16385, 32768, 32769, 50000]
)
def test_runs_around_the_limits_of_each_size(run):
    mask = np.zeros((1, run + 2), dtype=bool)
    mask[0, 1:-1] = True
    assert decoded(encode(mask)) == channels(mask)
    assert decoded(encode(np.ones((1, run), dtype=bool))) == [255] * 4 * run


def test_the_bytes_of_a_small_mask_are_those_of_the_format():
    bits = (
        f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
        f"1{0:02b}{3:03b}{0:08b}"
        f"1{0:02b}{3:03b}{255:08b}"
    )
    bits += "0" * (-len(bits) % 8)
    assert encode(np.array([[False, True]])) == [
        int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)
    ]
