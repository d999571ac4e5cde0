import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lens_cache.evaluation.confidence import (
    COVERAGES,
    calibrate,
    measures_of,
    risk_coverage,
    stability,
)

UNIT = st.floats(0, 1, width=32)


def pairs(least=1):
    sizes = st.integers(least, 60)
    return sizes.flatmap(
        lambda n: st.tuples(
            arrays(np.float64, n, elements=UNIT), arrays(np.float64, n, elements=UNIT)
        )
    )


def test_stability_is_the_iou_of_a_higher_and_a_lower_threshold():
    logits = torch.tensor([[-3.0, -0.5, 0.4], [0.9, 1.1, 5.0]])
    assert stability(logits, 0.0) == pytest.approx(2 / 5)  # 1.1, 5 of -0.5, 0.4, 0.9, 1.1, 5
    assert stability(torch.full((2, 2), -9.0), 0.0) == 0
    assert stability(torch.full((2, 2), 9.0), 0.0) == 1
    measures = measures_of(torch.tensor(0.7), logits, 0.0)
    assert {k: float(v) for k, v in measures.items()} == pytest.approx(
        {"quality": 0.7, "stability": 0.4}
    )


@given(pairs())
def test_the_risk_of_the_best_scores_is_that_of_a_plain_loop(values):
    scores, ious = values
    found = risk_coverage(scores, ious)
    # Masks with equal scores are replaced by their mean, so that their order does not matter.
    equal = {score: ious[scores == score].mean() for score in set(scores)}
    ordered = [equal[score] for score in sorted(scores, reverse=True)]
    risks = [1 - np.mean(ordered[:kept]) for kept in range(1, len(ordered) + 1)]
    assert found.area == pytest.approx(np.mean(risks))
    assert found.random == pytest.approx(1 - ious.mean())
    for share in COVERAGES:
        assert found.risk[share] == pytest.approx(risks[max(0, round(share * len(ious)) - 1)])
    assert found.risk[1.0] == pytest.approx(found.random)


@given(pairs())
def test_no_order_is_better_than_that_of_the_truth(values):
    scores, ious = values
    assert risk_coverage(ious, ious).area == pytest.approx(risk_coverage(scores, ious).best)
    assert risk_coverage(scores, ious).area >= risk_coverage(scores, ious).best - 1e-9


def test_the_measure_with_the_better_order_is_chosen_and_mapped_to_ious():
    rng = np.random.default_rng(0)
    ious = rng.random(2000)
    good, bad = ious**2 + 0.02 * rng.standard_normal(2000), rng.random(2000)
    found = calibrate({"quality": bad, "stability": good}, ious, "val")
    assert (found.measure, found.split, found.queries) == ("stability", "val", 2000)
    assert found.aurc["stability"] < found.aurc["quality"]
    for value in (0.3, 0.5, 0.8):
        score = found.score({"stability": value**2, "quality": 0.0})
        assert score == pytest.approx(value, abs=0.05)


@given(pairs(least=2))
def test_a_higher_measure_never_has_a_lower_score(values):
    measure, ious = values
    found = calibrate({"quality": measure}, ious, "val")
    scores = [found.score({"quality": value}) for value in np.linspace(-0.5, 1.5, 30)]
    assert np.all(np.diff(scores) >= 0)
    assert ious.min() - 1e-9 <= min(scores) <= max(scores) <= ious.max() + 1e-9
