import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.evaluation.metrics import MaskIoU, intersection_and_union, iou, score_masks


def _mask(rows):
    return torch.tensor(rows).bool()


EMPTY, FULL = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)


def _lisa(prediction, target):
    """Score one mask as LISA's validation does; ``target`` holds 0, 1 and 255."""
    prediction = np.where(target == 255, 255, prediction)
    inter = np.sum((prediction == 1) & (target == 1))
    union = np.sum(prediction == 1) + np.sum(target == 1) - inter
    return inter, union, inter / (union + 1e-5) + (1.0 if union == 0 else 0.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 100_000))
def test_metric_equals_lisas_reading(seed):
    rng = np.random.default_rng(seed)
    predictions = rng.random((4, 3, 3)) < rng.choice([0, 0.3, 0.9])
    targets = rng.choice([0, 1, 255][: rng.integers(1, 4)], (4, 3, 3))
    metric, rows = MaskIoU(), []
    for prediction, target in zip(predictions, targets, strict=True):
        metric.update(*(torch.from_numpy(x) for x in (prediction, target == 1, target == 255)))
        rows.append(_lisa(prediction.astype(int), target))
    inter, union, ious = map(np.array, zip(*rows, strict=True))
    scores = metric.compute()
    assert scores["giou"].item() == pytest.approx(ious.mean(), abs=1e-12)
    assert scores["ciou"].item() == pytest.approx(inter.sum() / (union.sum() + 1e-10), abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "target", "expected"),
    [(EMPTY, EMPTY, 1.0), (FULL, EMPTY, 0.0), (EMPTY, FULL, 0.0), (FULL, FULL, 6 / (6 + 1e-5))],
)
def test_edges_of_the_iou(prediction, target, expected):
    value = iou(*intersection_and_union(prediction, target)).item()
    assert value == pytest.approx(expected, abs=1e-12)


def test_counts_by_hand():
    prediction, target = _mask([[1, 1, 0], [0, 0, 0]]), _mask([[0, 1, 1], [0, 0, 1]])
    intersection, union = intersection_and_union(prediction, target)
    assert (intersection.item(), union.item()) == (1, 4)
    ignore = _mask([[0, 1, 0], [0, 0, 1]])
    intersection, union = intersection_and_union(prediction, target, ignore)
    assert (intersection.item(), union.item()) == (0, 2)


def test_an_image_that_is_all_ignored_scores_one():
    assert iou(*intersection_and_union(FULL, EMPTY, FULL)).item() == 1.0


def test_sums_beyond_float32_stay_exact():
    metric = MaskIoU()
    metric.intersection = torch.tensor(2**24, dtype=torch.int64)
    metric.update(_mask([[1]]), _mask([[1]]))
    assert metric.intersection.item() == 2**24 + 1
    assert metric.intersection.dtype == metric.union.dtype == torch.int64


def test_several_masks_at_once_equal_one_by_one():
    generator = torch.Generator().manual_seed(0)
    predictions = torch.rand(5, 4, 4, generator=generator) > 0.5
    targets = torch.rand(5, 4, 4, generator=generator) > 0.5
    together, apart = MaskIoU(), MaskIoU()
    together.update(predictions, targets)
    for prediction, target in zip(predictions, targets, strict=True):
        apart.update(prediction, target)
    for name in ("giou", "ciou"):
        torch.testing.assert_close(together.compute()[name], apart.compute()[name])


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_reset_forgets_and_nothing_is_nan():
    metric = MaskIoU()
    metric.update(FULL, FULL)
    metric.reset()
    assert all(score.isnan() for score in metric.compute().values())


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (torch.zeros(2, 3), r"prediction must be bool .*got torch.float32"),
        (torch.zeros(3, 3, dtype=torch.bool), r"shape \(2, 3\), got .* \(3, 3\)"),
    ],
)
def test_masks_that_do_not_match_are_refused(prediction, message):
    with pytest.raises(ValueError, match=message):
        intersection_and_union(prediction, EMPTY)


def test_groups_have_the_scores_of_their_own_masks():
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(6, 2, 5, 7, generator=generator) > 0.5
    groups = [("a",), ("a", "b"), ("b",), (), ("a",), ("b",)]
    grouped = MaskIoU(["a", "b", "never"])
    alone = {name: MaskIoU() for name in ("", "a", "b")}
    for (prediction, target), names in zip(masks, groups, strict=True):
        grouped.update(prediction, target, groups=names)
        for name in ("", *names):
            alone[name].update(prediction, target)
    expected = {
        f"{metric}/{name}".rstrip("/"): value
        for name, one in alone.items()
        for metric, value in one.compute().items()
    }
    assert grouped.compute() == expected
    grouped.reset()
    grouped.update(*masks[0], groups=["b"])
    assert grouped.compute().keys() == {"giou", "ciou", "giou/b", "ciou/b"}


def test_scores_of_a_mask_count_no_ignored_pixel():
    prediction = _mask([[1, 1, 0], [1, 0, 0]])
    target = _mask([[1, 0, 0], [1, 1, 0]])
    ignore = _mask([[0, 1, 1], [0, 0, 1]])
    (found,) = score_masks(prediction[None], target[None], ignore[None])
    assert (found.intersection, found.union) == (2, 3)
    assert (found.target_area, found.predicted_area) == (3, 2)
    assert found.iou == pytest.approx(2 / 3, abs=1e-5)
