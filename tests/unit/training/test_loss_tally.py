import pyarrow as pa
import pytest
import torch

from lens_cache.config.train import LossConfig
from lens_cache.features.transfer import Transfer
from lens_cache.features.types import LensOutput
from lens_cache.training.loss_tally import Tally
from lens_cache.training.losses import Losses
from lens_cache.training.sampling import Draw
from lens_cache.training.targets import Targets


class Plan:
    queries = pa.table({"dataset": ["b", "a", "b", "c"]})


def _batch(each, points, kept, masks):
    """Return what two questions say: losses (2, 3), keypoints (2, m, 2), masks (2, s, s)."""
    each = torch.tensor(each)
    mean = each.mean(dim=0)
    losses = Losses(total=mean.sum(), dice=mean[0], bce=mean[1], attention=mean[2], each=each)
    segmentation = LensOutput(
        low_res_logits=torch.zeros(2, 4, 4),
        grounding_map=torch.zeros(2, 2, 2),
        keypoints=torch.tensor(points),
        keypoint_mask=torch.tensor(kept),
    )
    masks = torch.tensor(masks)
    return losses, segmentation, Targets(masks, torch.ones_like(masks), masks, masks)


LEFT = [[True, False], [True, False]]
TOP = [[True, True], [False, False]]


def _tally():
    tally = Tally(Plan)
    points = [[[0.2, 0.9], [0.7, 0.9]], [[1.0, 0.0], [0.1, 0.1]]]
    first = _batch(
        [[1.0, 2.0, 3.0], [3.0, 4.0, 5.0]], points, [[True, True], [True, False]], [LEFT, TOP]
    )
    tally.add([Draw(0, (0,)), Draw(1, (1,))], *first, Transfer("cpu"))
    second = _batch(
        [[5.0, 0.0, 1.0], [7.0, 2.0, 1.0]], points, [[False, False], [False, True]], [TOP, LEFT]
    )
    tally.add([Draw(0, (0, 2))], *second, Transfer("cpu"))
    return tally


def test_means_over_questions_and_datasets():
    sums = _tally().take(lambda values: values)
    assert sums.questions == 4
    losses = sums.losses(LossConfig(dice=1, bce=10, attention=100))
    assert losses == pytest.approx({"total": 4 + 20 + 250, "dice": 4, "bce": 2, "attention": 2.5})
    assert sums.losses_by_dataset() == pytest.approx(
        {
            "dice/a": 3,
            "bce/a": 4,
            "attention/a": 5,
            "dice/b": 13 / 3,
            "bce/b": 4 / 3,
            "attention/b": 5 / 3,
        }
    )


def test_keypoints_are_counted_and_looked_up_in_the_true_mask():
    """(0.2, 0.9) lies left, (0.7, 0.9) does not; (1, 0) on top; (0.1, 0.1) left."""
    assert _tally().take(lambda values: values).keypoints() == pytest.approx(
        {"keypoints": 4 / 4, "keypoints_inside": 3 / 4}
    )


def test_sums_are_those_of_all_processes_and_begin_anew():
    tally = _tally()
    twice = tally.take(lambda values: 2 * values)
    assert twice.questions == 8
    assert twice.losses(LossConfig())["dice"] == 4
    one, other = _tally().take(lambda values: values), _tally().take(lambda values: values)
    assert (one + other).questions == 8
    with pytest.raises(AssertionError, match=r"take\(\) without add"):
        tally.take(lambda values: values)
