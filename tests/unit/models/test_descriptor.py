import pytest
import torch
from torch import nn

from lens_cache.errors import ConfigError
from lens_cache.models.descriptor import DROPOUT, FEEDFORWARD_DIM, DescriptorModel


def _model(**settings):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_heads": 4, "intermediate_size": 24, "prompt_dim": 8}
    return DescriptorModel(**{**sizes, **settings}).eval()


def _inputs(questions=3, keypoints=5):
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(keypoints) < torch.tensor([[keypoints], [2], [0]])[:questions]
    return (
        torch.randn(questions, 16, generator=generator),
        torch.randn(questions, keypoints, 9, 16, generator=generator),
        mask,
    )


def _attend(attention, query, key):
    """Multi-head attention of one query sequence, head by head."""
    width, heads = query.shape[-1], attention.num_heads
    q_w, k_w, v_w = attention.in_proj_weight.chunk(3)
    q_b, k_b, v_b = attention.in_proj_bias.chunk(3)
    q, k, v = query @ q_w.T + q_b, key @ k_w.T + k_b, key @ v_w.T + v_b
    size, parts = width // heads, []
    for head in range(heads):
        s = slice(head * size, (head + 1) * size)
        weights = (q[:, s] @ k[:, s].T / size**0.5).softmax(dim=-1)
        parts.append(weights @ v[:, s])
    return attention.out_proj(torch.cat(parts, dim=-1))


def _slow(model, start, around, mask):
    """Describe one question with only the keypoints that exist."""
    local = []
    for patch in around[mask]:
        x = model.cross_norm(start[None] + _attend(model.cross_attention, start[None], patch))
        local.append(model.feedforward_norm(x + model.feedforward(x)))
    together = torch.cat([*local, start[None]])
    layer = model.self_attention
    x = layer.norm1(together + _attend(layer.self_attn, together, together))
    x = layer.norm2(x + layer.linear2(layer.linear1(x).relu()))
    x = model.projection(x)
    return x[:-1], x[-1]


@pytest.mark.parametrize("gradients", [True, False])
def test_descriptions_equal_a_plain_reading(gradients, recwarn):
    model = _model()
    start, around, mask = _inputs()
    with torch.set_grad_enabled(gradients):
        local, whole = model(start, around, mask)
    assert local.shape == (3, 5, 8)
    assert whole.shape == (3, 8)
    for q in range(3):
        expected_local, expected_whole = _slow(model, start[q], around[q], mask[q])
        torch.testing.assert_close(local[q][mask[q]], expected_local, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(whole[q], expected_whole, atol=1e-5, rtol=1e-5)
    assert not recwarn.list


@torch.no_grad()
def test_absent_keypoints_influence_nothing():
    model = _model()
    start, around, mask = _inputs()
    changed = torch.where(mask[:, :, None, None], around, 100.0)
    local, whole = model(start, around, mask)
    other_local, other_whole = model(start, changed, mask)
    torch.testing.assert_close(local[mask], other_local[mask])
    torch.testing.assert_close(whole, other_whole)


@torch.no_grad()
def test_a_batch_of_two_equals_two_batches_of_one():
    model = _model()
    inputs = _inputs(2)
    local, whole = model(*inputs)
    for q in range(2):
        alone_local, alone_whole = model(*(x[q : q + 1] for x in inputs))
        torch.testing.assert_close(local[q][inputs[2][q]], alone_local[0][inputs[2][q]])
        torch.testing.assert_close(whole[q], alone_whole[0])


def test_where_the_paper_is_silent_the_released_sizes_stand():
    layer = _model().self_attention
    assert (layer.linear1.out_features, FEEDFORWARD_DIM) == (2048, 2048)
    assert {m.p for m in layer.modules() if isinstance(m, nn.Dropout)} == {DROPOUT} == {0.1}


def test_every_weight_gets_a_gradient_even_without_keypoint_prompts():
    model = _model().train()
    _, whole = model(*_inputs(2))
    whole.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"num_descriptor_heads must divide .* width 16, got 5"):
        _model(num_heads=5)
