"""Scores of samples: values against sums written out, and groups."""

import pytest

from lens_cache.evaluation.scores import Sample, score_all


def sample(number, *, target=100, predicted=100, shared=100, words=2, share=0.05, edges=0.5):
    union = target + predicted - shared
    return Sample(
        query_id=f"q{number}",
        image_id=f"i{number // 2}",
        image="a.png",
        dataset="jsonl",
        instruction=" ".join(["box"] * words),
        kind="referring",
        length="short",
        topic="",
        intersection=shared,
        union=union,
        iou=shared / union if union else 1.0,
        target_area=target,
        predicted_area=predicted,
        boundary_iou=edges,
        target_share=share if target else 0.0,
    )


SAMPLES = [
    sample(0),
    sample(1, shared=60),  # IoU 60 / 140
    sample(2, shared=80, words=5, share=0.001, edges=0.1),  # IoU 80 / 120
    sample(3, target=0, predicted=0, shared=0, edges=1.0),
    sample(4, target=0, predicted=40, shared=0, words=9, edges=0.0),
    sample(5, predicted=0, shared=0, share=0.4, edges=0.0),
]


def test_scores_are_the_quotients_of_their_sums():
    found = score_all(SAMPLES).overall
    ious = [1, 60 / 140, 80 / 120, 1, 0, 0]
    assert found.giou.value == pytest.approx(sum(ious) / 6)
    assert found.ciou.value == pytest.approx(240 / (100 + 140 + 120 + 0 + 40 + 100))
    # Of the four queries with a target.
    assert {x: one.value for x, one in found.precision.items()} == {
        "0.5": 2 / 4,
        "0.7": 1 / 4,
        "0.9": 1 / 4,
    }
    assert found.boundary_iou.value == pytest.approx((0.5 + 0.5 + 0.1 + 1) / 6)
    assert found.n_acc.value == 1 / 2
    assert found.t_acc.value == 3 / 4


def test_only_targets_have_a_precision_and_only_their_absence_an_accuracy():
    present = score_all(SAMPLES[:3]).overall
    assert (present.n_acc, present.t_acc) == (None, None)
    absent = score_all(SAMPLES[3:5]).overall
    assert absent.precision == {}
    assert absent.n_acc.value == 1 / 2
    assert absent.t_acc is None


def test_expected_values_have_no_precision():
    found = score_all([sample(0, edges=None), sample(1)]).overall
    assert found.precision == {}
    assert found.boundary_iou is None


def test_groups_by_size_and_by_words():
    found = score_all(SAMPLES)
    sizes = {name: score.queries for name, score in found.by_size.items()}
    assert sizes == {"1 small (under 1%)": 1, "2 medium (under 10%)": 2, "3 large": 1}
    words = {name: score.queries for name, score in found.by_words.items()}
    assert words == {"1 - 3 words": 4, "4 - 7 words": 1, "over 7 words": 1}
    assert found.by_size["3 large"].giou.value == 0
