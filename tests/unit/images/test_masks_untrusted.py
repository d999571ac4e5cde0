"""Run-length encodings from outside: each is read correctly or refused before it reaches C code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lens_cache.images import masks
from tests.support.pictures import runs


@settings(max_examples=100, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_both_forms_of_counts_give_the_mask(mask):
    rle = masks.encode(mask)
    assert masks.from_counts(rle["counts"], *mask.shape) == rle
    assert masks.from_counts(runs(mask), *mask.shape) == rle


def test_long_runs():
    mask = np.zeros((3000, 1000), dtype=bool)
    mask[:, 400:] = True
    rle = masks.encode(mask)
    assert masks.from_counts(rle["counts"], 3000, 1000) == rle


def test_equal_masks_give_equal_strings():
    plain = masks.from_counts([1, 3], 2, 2)
    assert masks.from_counts([1, 1, 0, 2], 2, 2) == plain
    assert masks.from_counts([1, 3, 0], 2, 2) == plain


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=10))
def test_any_text_is_a_mask_or_refused(counts):
    try:
        size = masks.decode(masks.from_counts(counts, 2, 3)).shape
    except ValueError:
        size = None
    assert size in ((2, 3), None)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ("4", "run lengths add up to 4 pixels, the mask has 4 x 4"),
        ("", "run lengths add up to 0 pixels, the mask has 4 x 4"),
        ("P", "the counts end in the middle of a run"),
        ("\u00e9", "not a compressed COCO run-length encoding"),
        ("o" * 40 + "0", "not a compressed COCO run-length encoding"),
        ("O", "run lengths must be integers of at least 0"),
        ([20, -10, 6], "run lengths must be integers of at least 0"),
        ([15.5, 0.5], "run lengths must be integers of at least 0"),
        ([True, 15], "run lengths must be integers of at least 0"),
        (["16"], "run lengths must be integers of at least 0"),
    ],
)
def test_malformed_counts(counts, message):
    with pytest.raises(ValueError, match=message):
        masks.from_counts(counts, 4, 4)


def test_masks_of_different_sizes_have_no_union():
    with pytest.raises(ValueError, match="masks of different sizes have no union"):
        masks.merge([masks.empty(3, 3), masks.empty(4, 4)])


@settings(max_examples=100, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)), st.data())
def test_sampled_pixels_are_those_of_the_mask(mask, data):
    height, width = mask.shape
    rows = np.array(data.draw(st.lists(st.integers(0, height - 1), max_size=5)), dtype=np.int64)
    columns = np.array(data.draw(st.lists(st.integers(0, width - 1), max_size=5)), dtype=np.int64)
    sampled = masks.sample(masks.encode(mask), rows, columns)
    np.testing.assert_array_equal(sampled, mask[np.ix_(rows, columns)])
