import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from lens_cache.config.train import LossConfig
from lens_cache.features.types import LensOutput
from lens_cache.images.geometry import logits_to_image
from lens_cache.training.losses import LensLoss, attention_loss, dice_loss, mask_bce_loss
from lens_cache.training.targets import Targets

SIDE = 64


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _segmentation(count=2):
    return LensOutput(
        low_res_logits=_random(count, 16, 16),
        grounding_map=_random(count, 6, 6, seed=1).sigmoid(),
        keypoints=torch.zeros(count, 1, 2),
        keypoint_mask=torch.ones(count, 1, dtype=torch.bool),
    )


def _targets(masks, valid=None):
    """Targets whose pixels all count, unless told."""
    if valid is None:
        ones = [torch.ones_like(mask, dtype=torch.bool) for mask in masks]
        valid = torch.stack(ones) if isinstance(masks, torch.Tensor) else ones
    attention = _attention_target()
    return Targets(
        attention=attention,
        attention_valid=torch.ones_like(attention),
        masks=masks,
        valid=valid,
    )


def _attention_target(count=2, size=12):
    return _random(count, size, size, seed=2) > 0


def test_dice_by_hand():
    logits = torch.tensor([[[math.log(3), math.log(3)], [-math.log(3), -math.log(3)]]])
    target = torch.tensor([[[True, False], [True, False]]])
    # probabilities 3/4 3/4 1/4 1/4; 2 * (3/4 + 1/4) / (2 + 2)
    eps = 1e-6 * 1000
    expected = 1 - (2 * 1.0 + eps) / (4.0 + eps)
    assert dice_loss(logits, target).item() == pytest.approx(expected, abs=1e-6)


def test_bce_by_hand():
    logits = torch.tensor([[[math.log(3), -math.log(3)]]])
    target = torch.tensor([[[True, True]]])
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    assert mask_bce_loss(logits, target).item() == pytest.approx(expected, abs=1e-6)


def test_losses_equal_lisas_formulas():
    logits, target = _random(3, 5, 7), _random(3, 5, 7, seed=3) > 0
    truth, scale, eps = target.float().flatten(1), 1000, 1e-6
    p = logits.sigmoid().flatten(1)
    numerator = 2 * (p / scale * truth).sum(-1)
    denominator = (p / scale).sum(-1) + (truth / scale).sum(-1)
    dice = 1 - (numerator + eps) / (denominator + eps)
    bce = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    bce = bce.flatten(1).mean(1)
    torch.testing.assert_close(dice_loss(logits, target), dice)
    torch.testing.assert_close(mask_bce_loss(logits, target), bce)


@pytest.mark.parametrize("loss", [dice_loss, mask_bce_loss])
def test_pixels_that_are_not_valid_do_not_count(loss):
    logits, target = _random(2, 4, 6), _random(2, 4, 6, seed=3) > 0
    valid = torch.zeros(2, 4, 6, dtype=torch.bool)
    valid[:, :3, :5] = True
    expected = loss(logits[:, :3, :5], target[:, :3, :5])
    torch.testing.assert_close(loss(logits, target, valid), expected)
    assert loss(logits, target, torch.zeros_like(valid)).tolist() == [0, 0]


def test_an_empty_answer_to_an_empty_target_costs_nothing():
    logits, target = torch.full((1, 4, 4), -40.0), torch.zeros(1, 4, 4, dtype=torch.bool)
    assert dice_loss(logits, target).item() == pytest.approx(0, abs=1e-6)
    assert mask_bce_loss(logits, target).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("coordinates", "values"),
    [
        # Pixel i is at (i + 0.5) / 2 - 0.5 cells, or at i / 3 cells.
        ("centre", (0.2, 0.3, 0.5, 0.6)),
        ("corner", (0.2, 0.2 + 0.4 / 3, 0.2 + 0.8 / 3, 0.6)),
    ],
)
def test_attention_loss_by_hand(coordinates, values):
    grounding = torch.tensor([[[0.2, 0.6]]]).expand(1, 2, 2)
    target = torch.tensor([[[False, True, True, True]]]).expand(1, 4, 4)
    expected = -(math.log(1 - values[0]) + sum(math.log(value) for value in values[1:])) / 4
    loss = attention_loss(grounding, target, coordinates=coordinates)
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("coordinates", ["centre", "corner"])
def test_the_loss_takes_the_frame_of_the_answer(coordinates):
    answer = dataclasses.replace(_segmentation(), coordinates=coordinates)
    targets = _targets([_random(20, 30) > 0, _random(50, 25) > 0])
    losses = LensLoss(LossConfig(), side=SIDE)(answer, targets)
    expected = attention_loss(
        answer.grounding_map, targets.attention, targets.attention_valid, coordinates=coordinates
    )
    torch.testing.assert_close(losses.attention, expected.mean())


def test_attention_loss_is_finite_at_zero_and_one():
    grounding = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    loss = attention_loss(grounding, torch.tensor([[[True, False]]]))
    loss.backward()
    assert loss.isfinite()
    assert grounding.grad.isfinite().all()


@pytest.mark.parametrize("loss", [dice_loss, mask_bce_loss])
def test_mask_loss_gradients_are_exact(loss):
    logits = _random(2, 3, 4).double().requires_grad_()
    target, valid = _random(2, 3, 4, seed=3) > 0, _random(2, 3, 4, seed=4) > -1
    assert torch.autograd.gradcheck(lambda x: loss(x, target, valid), logits)


def test_attention_loss_gradient_is_exact():
    grounding = _random(2, 3, 4).double().sigmoid().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda g: attention_loss(g, _attention_target(size=7)), grounding
    )


def test_image_resolution_averages_over_masks_of_different_size():
    segmentation, masks = _segmentation(), [_random(20, 30) > 0, _random(50, 25) > 0]
    targets = _targets(masks)
    losses = LensLoss(LossConfig(dice=3, bce=5, attention=7), side=SIDE)(segmentation, targets)
    full = [
        logits_to_image(row, width=mask.shape[1], height=mask.shape[0], side=SIDE)[None]
        for row, mask in zip(segmentation.low_res_logits, masks, strict=True)
    ]
    dice = sum(dice_loss(x, m[None]) for x, m in zip(full, masks, strict=True)) / 2
    bce = sum(mask_bce_loss(x, m[None]) for x, m in zip(full, masks, strict=True)) / 2
    torch.testing.assert_close(losses.dice, dice[0])
    torch.testing.assert_close(losses.bce, bce[0])
    attention = attention_loss(segmentation.grounding_map, targets.attention)
    torch.testing.assert_close(losses.attention, attention.mean())
    torch.testing.assert_close(losses.total, (3 * dice + 5 * bce + 7 * attention).mean())
    each = [
        [dice_loss(x, m[None]), mask_bce_loss(x, m[None])] for x, m in zip(full, masks, strict=True)
    ]
    torch.testing.assert_close(losses.each[:, :2], torch.tensor(each))
    torch.testing.assert_close(losses.each[:, 2], attention)


def test_square_masks_leave_the_padding_out():
    segmentation = _segmentation()
    masks = _random(2, 32, 32, seed=5) > 0
    inside = torch.zeros(2, 32, 32, dtype=torch.bool)
    inside[:, :20] = True
    targets = _targets(masks, inside)
    losses = LensLoss(LossConfig(mask_size=32), side=SIDE)(segmentation, targets)
    resized = F.interpolate(segmentation.low_res_logits[:, None], (32, 32), mode="bilinear")[:, 0]
    torch.testing.assert_close(losses.dice, dice_loss(resized[:, :20], masks[:, :20]).mean())
    torch.testing.assert_close(losses.bce, mask_bce_loss(resized[:, :20], masks[:, :20]).mean())


def test_losses_are_float32_under_autocast():
    segmentation = _segmentation()
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    targets = _targets(masks, ~masks)
    loss = LensLoss(LossConfig(mask_size=32), side=SIDE)
    exact = loss(segmentation, targets)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(segmentation, targets.to("cpu"))
    torch.testing.assert_close(mixed.total, exact.total)


@pytest.mark.parametrize(
    ("size", "masks", "valid", "message"),
    [
        (8, [torch.zeros(4, 8)] * 2, None, r"mask_size is 8: expected .* \(8, 8\), found"),
        (8, [torch.zeros(8, 8)] * 2, [torch.ones(4, 8)] * 2, r"mask_size is 8: .*found .*4, 8"),
        (None, [torch.zeros(8, 8)], None, "2 answers, 1 masks and 2 attention targets"),
    ],
)
def test_targets_of_the_wrong_kind_are_refused(size, masks, valid, message):
    targets = _targets(masks, valid)
    with pytest.raises(ValueError, match=message):
        LensLoss(LossConfig(mask_size=size), side=SIDE)(_segmentation(), targets)


def test_a_grounding_map_that_is_not_finite_gives_a_loss_that_is_not():
    grounding = torch.full((1, 2, 2), 0.5)
    grounding[0, 0, 0] = torch.nan
    assert attention_loss(grounding, torch.ones(1, 4, 4, dtype=torch.bool)).isnan()


@pytest.mark.parametrize("size", [None, 32])
def test_ignored_pixels_cost_nothing_whatever_is_predicted_there(size):
    masks = _random(2, 32, 32, seed=5) > 0
    ignored = torch.zeros(2, 32, 32, dtype=torch.bool)
    ignored[:, 10:20, 5:30] = True
    attention = torch.zeros(2, 16, 16, dtype=torch.bool)
    attention_ignored = torch.zeros(2, 16, 16, dtype=torch.bool)
    attention_ignored[:, 4:9] = True

    def loss(truth, attended):
        valid = ~ignored
        targets = Targets(
            attention=attended,
            attention_valid=~attention_ignored,
            masks=truth if size else list(truth),
            valid=valid if size else list(valid),
        )
        return LensLoss(LossConfig(mask_size=size), side=SIDE)(_segmentation(), targets)

    one = loss(masks, attention)
    for other in (
        loss(masks ^ ignored, attention),
        loss(masks, attention ^ attention_ignored),
    ):
        torch.testing.assert_close(one.total, other.total)
    assert not torch.isclose(one.total, loss(~masks, attention).total)
    assert not torch.isclose(one.total, loss(masks, ~attention).total)
