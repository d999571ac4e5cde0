"""Bootstrap intervals over images."""

import numpy as np
import pytest

from lens_cache.evaluation.intervals import Ratio, bootstrap, paired_bootstrap


def test_it_is_reproducible_and_brackets_the_value():
    rng = np.random.default_rng(0)
    unions = rng.integers(50, 100, 60)
    intersections = rng.integers(0, 50, 60)
    images = [i // 2 for i in range(60)]
    ratios = {
        "mean": Ratio((intersections / unions).tolist()),
        "ratio": Ratio(intersections.tolist(), unions.tolist()),
    }
    first = bootstrap(ratios, images)
    assert first == bootstrap(ratios, images)
    assert first["mean"].value == pytest.approx(np.mean(intersections / unions))
    assert first["ratio"].value == pytest.approx(intersections.sum() / unions.sum())
    for interval in first.values():
        assert interval.low < interval.value < interval.high
    assert bootstrap(ratios, images, confidence=0.99)["mean"].low < first["mean"].low


def test_the_spread_is_that_of_a_mean():
    values = np.random.default_rng(1).random(400)
    interval = bootstrap({"mean": Ratio(values.tolist())}, range(400))["mean"]
    expected = 2 * 1.96 * values.std() / 20
    assert interval.high - interval.low == pytest.approx(expected, rel=0.05)


def test_whole_images_are_drawn():
    found = bootstrap({"mean": Ratio([1, 0, 5])}, ["a", "a", "a"], resamples=50)["mean"]
    assert found.low == found.value == found.high == 2


def test_resamples_without_a_denominator_do_not_count():
    # Half of the resamples of two images leave the only one with a denominator out.
    found = bootstrap({"rare": Ratio([1, 0], [1, 0])}, ["a", "b"], resamples=200)["rare"]
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"at least 1, got \[0\]"):
        bootstrap({"mean": Ratio([])}, [])
    with pytest.raises(ValueError, match=r"got \[1, 2\]"):
        bootstrap({"ratio": Ratio([1], [1, 2])}, ["a"])


def test_a_paired_difference_is_sharper_than_its_parts():
    rng = np.random.default_rng(2)
    hardness = rng.random(200)
    first = {"mean": Ratio(hardness.tolist())}
    second = {"mean": Ratio((hardness + 0.01 + 0.01 * rng.random(200)).tolist())}
    difference = paired_bootstrap(first, second, range(200))["mean"]
    alone = bootstrap(second, range(200))["mean"]
    assert difference.value == pytest.approx(second["mean"].value - first["mean"].value)
    assert 0.01 < difference.low < difference.value < difference.high < 0.02
    assert difference.high - difference.low < (alone.high - alone.low) / 20
    with pytest.raises(ValueError, match="the same scores"):
        paired_bootstrap(first, {"other": Ratio([1.0])}, [0])
