import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from lens_cache.images import masks

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_encoding_loses_nothing(mask):
    rle = masks.encode(mask)
    np.testing.assert_array_equal(masks.decode(rle), mask)
    assert masks.area(rle) == mask.sum()
    assert rle["size"] == list(mask.shape)


@settings(max_examples=30, deadline=None)
@given(arrays(bool, (2, 5, 7)))
def test_merge_is_the_union(pair):
    merged = masks.decode(masks.merge([masks.encode(pair[0]), masks.encode(pair[1])]))
    np.testing.assert_array_equal(merged, pair[0] | pair[1])


def test_polygons_are_filled_and_united():
    rle = masks.from_polygons([[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 6, 2, 6, 6, 2, 6]], 8, 8)
    expected = np.zeros((8, 8), dtype=bool)
    expected[0:4, 0:4] = True
    expected[2:6, 2:6] = True
    np.testing.assert_array_equal(masks.decode(rle), expected)


def test_no_polygon_is_an_empty_mask():
    assert masks.area(masks.from_polygons([], 3, 4)) == 0
    assert masks.decode(masks.empty(3, 4)).shape == (3, 4)


@pytest.mark.parametrize("polygon", [[0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 3]])
def test_a_polygon_with_too_few_or_odd_values_is_refused(polygon):
    with pytest.raises(ValueError, match=f"at least 6, got {len(polygon)}"):
        masks.from_polygons([polygon], 4, 4)


def test_counts_run_down_the_columns():
    mask = masks.decode(masks.from_counts([1, 2, 3], 3, 2))
    np.testing.assert_array_equal(mask, [[False, False], [True, False], [True, False]])
    rle = masks.encode(mask)
    assert masks.from_counts(rle["counts"], 3, 2) == rle


def test_counts_of_another_size_are_refused():
    with pytest.raises(ValueError, match="add up to 5 pixels, the mask has 3 x 2"):
        masks.from_counts([1, 4], 3, 2)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "1"])
def test_every_non_zero_pixel_of_a_png_is_foreground(tmp_path, mode):
    mask = np.array([[True, False], [False, True]])
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).convert(mode).save(tmp_path / "m.png")
    np.testing.assert_array_equal(masks.read_png(tmp_path / "m.png"), mask)


def test_a_written_png_reads_back(tmp_path):
    mask = np.eye(5, dtype=bool)
    masks.write_png(tmp_path / "m.png", mask)
    np.testing.assert_array_equal(masks.read_png(tmp_path / "m.png"), mask)


LABELS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 4)
)


@settings(max_examples=100, deadline=None)
@given(LABELS)
def test_split_is_the_mask_of_every_value(labels):
    expected = {int(value): masks.encode(labels == value) for value in np.unique(labels)}
    found = masks.split(labels)
    assert found == expected
    assert list(found) == sorted(expected)


@settings(max_examples=100, deadline=None)
@given(LABELS, arrays(np.uint8, 5, elements=st.integers(0, 2)))
def test_split_by_groups_is_the_mask_of_every_group(labels, groups):
    assert masks.split(labels, groups) == masks.split(groups[labels])
