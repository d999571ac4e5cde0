import math

import pytest

from lens_cache.evaluation.seed_statistics import (
    Spread,
    direction,
    paired_difference,
    spread,
    verdict,
)


def test_spread_of_three_by_hand():
    found = spread([1.0, 2.0, 6.0])
    assert found.mean == 3.0
    # Squared distances 4 + 1 + 9 = 14, over n - 1 = 2.
    assert found.deviation == pytest.approx(math.sqrt(7))
    assert found.standard_error == pytest.approx(math.sqrt(7 / 3))
    assert found.count == 3


def test_a_single_value_has_no_deviation():
    assert spread([5.0]) == Spread(5.0, None, 1)
    assert spread([5.0]).standard_error is None


def test_what_a_seed_does_to_both_drops_out():
    reference = {0: 10.0, 1: 50.0, 2: 90.0}
    row = {0: 8.0, 1: 47.0, 2: 86.0}
    found = paired_difference(row, reference)
    assert found is not None
    assert (found.mean, found.deviation, found.count) == (-3.0, 1.0, 3)


def test_only_seeds_that_both_have_are_paired():
    assert paired_difference({1: 5.0, 2: 7.0}, {0: 1.0, 1: 4.0}) == Spread(1.0, None, 1)
    assert paired_difference({1: 5.0}, {0: 1.0}) is None


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        # With four seeds the standard error is half the deviation: 2 errors are the deviation.
        (Spread(-3.0, 3.0, 4), "lower"),
        (Spread(3.0, 3.0, 4), "higher"),
        (Spread(2.99, 3.0, 4), "no clear difference"),
        (Spread(-2.99, 3.0, 4), "no clear difference"),
        (Spread(9.0, None, 1), "no clear difference"),
        (Spread(0.0, 0.0, 3), "no clear difference"),
        (Spread(0.5, 0.0, 3), "higher"),
    ],
)
def test_a_difference_is_clear_from_two_standard_errors_on(difference, expected):
    assert direction(difference) == expected


@pytest.mark.parametrize(
    ("mean", "published", "expected"),
    [
        (-5.0, -8.6, "agrees"),
        (5.0, 8.6, "agrees"),
        (5.0, -8.6, "disagrees"),
        (-5.0, 8.6, "disagrees"),
        (5.0, 0.0, "disagrees"),
        (-0.1, -8.6, "no clear difference"),
        (0.1, -8.6, "no clear difference"),
    ],
)
def test_the_verdict_compares_signs_of_what_is_clear(mean, published, expected):
    assert verdict(Spread(mean, 1.0, 3), published) == expected
