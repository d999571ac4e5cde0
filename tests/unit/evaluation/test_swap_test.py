import torch

from lens_cache.evaluation.swap_test import swap_test


def boxes(*columns):
    masks = torch.zeros(len(columns), 4, 12, dtype=torch.bool)
    for mask, (left, right) in zip(masks, columns, strict=True):
        mask[:, left:right] = True
    return masks


def test_a_pair_passes_if_each_mask_fits_its_own_target_better():
    targets = boxes((0, 3), (4, 7), (8, 12))
    predictions = boxes((0, 4), (3, 7), (4, 6))  # the third one took the second for the third
    pairs, passed = swap_test(predictions, targets)
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2]]
    assert passed.tolist() == [True, False, False]


def test_who_ignores_the_words_passes_none():
    targets = boxes((0, 3), (4, 7), (8, 12))
    for same in (torch.ones(3, 4, 12) > 0, torch.zeros(3, 4, 12) > 0, boxes(*[(0, 3)] * 3)):
        assert not swap_test(same, targets)[1].any()


def test_targets_that_share_a_pixel_are_no_pair():
    targets = boxes((0, 3), (2, 7))
    pairs, passed = swap_test(targets, targets)
    assert pairs.shape == (0, 2)
    assert passed.shape == (0,)


def test_an_instruction_without_a_target_is_in_no_pair():
    targets = torch.zeros(3, 4, 4, dtype=torch.bool)
    targets[0, 0], targets[1, 3] = True, True
    pairs, passed = swap_test(targets.clone(), targets)
    assert pairs.tolist() == [[0, 1]]
    assert passed.tolist() == [True]
