import pytest
import torch

from lens_cache.models.grounding_map import aggregate_rows, normalise_map


def test_rows_of_other_questions_and_padding_do_not_count():
    rows = torch.arange(8.0).view(1, 4, 2).repeat(2, 1, 1)
    owner = torch.tensor([[0, 0, 1, 1], [0, -1, -1, -1]])
    image, last = torch.tensor([0, 0, 1]), torch.tensor([1, 3, 0])
    mean, end = (aggregate_rows(rows.log(), owner, image, last, how) for how in ("mean", "last"))
    torch.testing.assert_close(mean.exp(), torch.tensor([[1.0, 2], [5, 6], [0, 1]]))
    torch.testing.assert_close(end.exp(), torch.tensor([[2.0, 3], [6, 7], [0, 1]]))


def test_normalisations_by_hand():
    values = torch.tensor([[0.1, 0.2, 0.0]])
    peak = normalise_map(values.log(), "peak", 1.0)
    torch.testing.assert_close(peak, torch.tensor([[0.5, 1 - 1e-6, 1e-6]]))
    torch.testing.assert_close(
        normalise_map(values.log(), "peak", 1.25), torch.tensor([[0.4, 0.8, 1e-6]])
    )
    torch.testing.assert_close(
        normalise_map(values.log(), "sum"), torch.tensor([[1 / 3, 2 / 3, 0.0]])
    )
    torch.testing.assert_close(normalise_map(values.log(), "none"), values)


@pytest.mark.parametrize("how", ["peak", "sum"])
def test_a_row_that_all_but_leaves_the_image_is_learnt_from_like_any_other(how):
    usual = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    # exp(-200) is 0 in float32
    tiny = (usual.detach() - 200).requires_grad_()
    for log_values in (usual, tiny):
        normalise_map(log_values, how).square().sum().backward()
    torch.testing.assert_close(normalise_map(tiny, how), normalise_map(usual, how))
    torch.testing.assert_close(tiny.grad, usual.grad)
    assert usual.grad.any()


@pytest.mark.parametrize(("headroom", "learns"), [(1.05, True), (1.0, False)])
def test_a_wrong_peak_gets_a_gradient_only_with_headroom(headroom, learns):
    values = torch.tensor([[0.1, 0.4, 0.2]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    loss = torch.nn.functional.binary_cross_entropy(
        normalise_map(values.log(), "peak", headroom), target
    )
    loss.backward()
    assert (values.grad[0, 1] > 0) == learns
    assert values.grad[0, 0] < 0


def test_gradients_of_the_normalisations_are_exact():
    values = torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: normalise_map(v.log(), "sum"), values)
    peak = values.detach().amax(dim=1, keepdim=True)
    values.grad = None
    normalise_map(values.log(), "peak", 1.05).sum().backward()
    torch.testing.assert_close(values.grad, (1 / (1.05 * peak)).expand(2, 5))
