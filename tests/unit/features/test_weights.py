import pytest
import torch
from torch import nn

from lens_cache.errors import CheckpointError
from lens_cache.features.weights import load_strict


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))


def test_weights_that_fit_are_copied():
    target, source = module(), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    load_strict(target, source.state_dict(), "loading", "try again")
    for name, weight in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], weight)


def test_every_weight_that_does_not_fit_is_named_and_none_is_loaded():
    target = module()
    before = {name: weight.clone() for name, weight in target.state_dict().items()}
    weights = {name: weight + 1 for name, weight in before.items()}
    del weights["0.bias"]
    weights["other"] = torch.zeros(1)
    weights["1.weight"] = torch.zeros(2, 5)
    with pytest.raises(CheckpointError) as error:
        load_strict(target, weights, "loading the head from head.pt", "download it again")
    assert str(error.value) == (
        "loading the head from head.pt: missing weights (1): 0.bias; unknown weights (1): other; "
        "weights of another shape (1): 1.weight (expected (2, 2), found (2, 5)); download it again"
    )
    for name, weight in target.state_dict().items():
        assert torch.equal(weight, before[name])


def test_a_long_list_of_weights_is_cut():
    with pytest.raises(CheckpointError, match=r"missing weights \(10\): 0\.bias, .*, \.\.\.; x"):
        load_strict(nn.Sequential(*[nn.Linear(1, 1) for _ in range(5)]), {}, "loading", "x")
