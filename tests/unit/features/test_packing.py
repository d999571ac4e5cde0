import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.features.packing import (
    PADDING,
    block_mask,
    pack_ids,
    pack_texts,
    position_ids,
    text_mask,
)

LENGTHS = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=3)


def _pack(lengths):
    return pack_texts([[torch.ones(n, 2) for n in row] for row in lengths])


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 4))
def test_each_token_sees_the_shared_part_and_its_own_past(lengths, num_shared):
    owner = _pack(lengths).owner
    mask = block_mask(num_shared, owner)[:, 0]
    for image, row in enumerate(owner.tolist()):
        names = ["shared"] * num_shared + row
        for i, mine in enumerate(names):
            for j, other in enumerate(names):
                expected = j <= i and (other == "shared" or other == mine)
                if mine == PADDING:
                    expected = i == j
                assert bool(mask[image, i, j]) == expected, (i, j)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 4))
def test_the_text_mask_is_the_rows_of_questions(lengths, num_shared):
    owner = _pack(lengths).owner
    expected = block_mask(num_shared, owner)[:, :, num_shared:]
    assert torch.equal(text_mask(num_shared, owner), expected)


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 4))
def test_positions_count_as_if_each_question_were_alone(lengths, num_shared):
    positions = position_ids(num_shared, _pack(lengths).owner)
    for image, row in enumerate(lengths):
        expected = list(range(num_shared))
        for length in row:
            expected += range(num_shared, num_shared + length)
        assert positions[image, : len(expected)].tolist() == expected


@settings(max_examples=40, deadline=None)
@given(LENGTHS)
def test_last_positions_point_at_the_end_of_each_question(lengths):
    packed = _pack(lengths)
    expected = [
        (b, sum(row[: i + 1]) - 1) for b, row in enumerate(lengths) for i in range(len(row))
    ]
    assert list(zip(packed.image.tolist(), packed.last.tolist(), strict=True)) == expected


def test_packing_keeps_tokens_in_order_and_pads_with_zeros():
    texts = [[torch.full((2, 1), 1.0), torch.full((1, 1), 2.0)], [torch.full((1, 1), 3.0)]]
    packed = pack_texts(texts)
    assert packed.tokens[..., 0].tolist() == [[1, 1, 2], [3, 0, 0]]
    assert packed.owner.tolist() == [[0, 0, 1], [0, PADDING, PADDING]]
    assert packed.places.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("lengths", [[[2, 0]], [[]]])
def test_a_question_without_tokens_is_refused(lengths):
    with pytest.raises(ValueError, match="image 0 has questions of"):
        _pack(lengths)


def test_two_hundred_batches_have_few_shapes():
    """A shape costs a plan of cuDNN, or a compilation."""
    chance = np.random.default_rng(0)
    batches = [
        [[[0] * length for length in chance.integers(20, 41, 8)] for _ in range(4)]
        for _ in range(200)
    ]
    exact = {max(sum(map(len, row)) for row in batch) for batch in batches}
    packed = [pack_ids(batch) for batch in batches]
    shapes = {tuple(ids.ids.shape) for ids in packed}
    assert len(exact) > 30
    assert len(shapes) <= 8
    assert all(width % 64 == 0 for _, width in shapes)
    for batch, ids in zip(batches, packed, strict=True):
        assert len(ids.places) == sum(len(text) for row in batch for text in row)


def test_images_without_questions_have_no_row():
    assert pack_ids([[], []]).ids.shape == (2, 0)
