import dataclasses
import json

import pytest
import torch
from transformers import AutoConfig, AutoModel

from lens_cache.config.train import ModelConfig
from lens_cache.errors import CheckpointError, ConfigError
from lens_cache.features.packing import block_mask, position_ids
from lens_cache.features.types import Features
from lens_cache.models.head import SegmentationHead
from tests.support.tiny import (
    GRID,
    PREFIX_LENGTH,
    WIDTH,
    random_features,
    random_image,
    text_config,
    tiny_frozen_parts,
)

CELLS = GRID[0] * GRID[1]
KINDS = [("llama", 4), ("llama", 2), ("qwen2", 2)]


def _head(kind="llama", num_key_value_heads=4, **settings):
    frozen = tiny_frozen_parts(kind=kind, num_key_value_heads=num_key_value_heads)
    return SegmentationHead(ModelConfig(**settings), frozen, 1)


def _assert_same(output, expected, questions=slice(None), images=slice(None)):
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(output.grounding_map[questions], expected.grounding_map, **close)
    torch.testing.assert_close(output.image_features[images], expected.image_features, **close)
    torch.testing.assert_close(output.start_of_answer[questions], expected.start_of_answer, **close)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "num_key_value_heads"), KINDS)
@pytest.mark.parametrize("rows", ["mean", "last"])
def test_grounding_map_equals_full_eager_softmax(kind, num_key_value_heads, rows):
    head = _head(kind, num_key_value_heads, attention_rows=rows, attention_normalisation="none")
    features = random_features((5, 4), (3,))
    output = head(features)
    eager = AutoModel.from_config(head.network.config, attn_implementation="eager")
    eager.load_state_dict(head.network.state_dict(), strict=False)
    num_shared = PREFIX_LENGTH + CELLS
    prefix = features.prefix.expand(2, -1, -1)
    sequence = torch.cat([prefix, features.image_tokens, features.texts.tokens], dim=1)
    allowed = block_mask(num_shared, features.texts.owner)
    expected = eager(
        inputs_embeds=sequence,
        attention_mask=torch.zeros(allowed.shape).masked_fill(~allowed, -1e30),
        position_ids=position_ids(num_shared, features.texts.owner),
        output_attentions=True,
    )
    attention = expected.attentions[0].mean(dim=1)[:, num_shared:, PREFIX_LENGTH:num_shared]
    spans = [attention[0, 0:5], attention[0, 5:9], attention[1, 0:3]]
    maps = [span.mean(dim=0) if rows == "mean" else span[-1] for span in spans]
    torch.testing.assert_close(output.grounding_map.flatten(1), torch.stack(maps))
    states = expected.last_hidden_state
    ends = states[[0, 0, 1], [num_shared + 4, num_shared + 8, num_shared + 2]]
    torch.testing.assert_close(output.start_of_answer, ends, atol=1e-5, rtol=1e-5)
    image_states = states[:, PREFIX_LENGTH:num_shared]
    torch.testing.assert_close(output.image_features, image_states, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("kind", "num_key_value_heads"), KINDS)
def test_packed_questions_equal_separate_forwards(kind, num_key_value_heads):
    head = _head(kind, num_key_value_heads)
    image = random_image((5, 4, 1, 7))
    packed = head(Features.stack([image]))
    for i, text in enumerate(image.text_tokens):
        alone = head(Features.stack([dataclasses.replace(image, text_tokens=[text])]))
        _assert_same(packed, alone, questions=slice(i, i + 1))


@torch.no_grad()
def test_a_batch_of_two_equals_two_batches_of_one():
    head = _head()
    images = [random_image((5, 4), 0), random_image((2,), 1)]
    both = head(Features.stack(images))
    _assert_same(both, head(Features.stack(images[:1])), slice(0, 2), slice(0, 1))
    _assert_same(both, head(Features.stack(images[1:])), slice(2, 3), slice(1, 2))
    assert both.image.tolist() == [0, 0, 1]


@torch.no_grad()
def test_a_store_without_prefix_works():
    output = _head()(Features.stack([random_image(prefix_length=0)]))
    assert output.grounding_map.shape == (2, *GRID)
    assert output.grounding_map.isfinite().all()


def test_shapes_and_precision_under_autocast():
    head = _head()
    with torch.autocast("cpu", torch.bfloat16):
        output = head(random_features((5, 4), (3,)).to("cpu", torch.bfloat16))
    assert output.grounding_map.shape == (3, *GRID)
    assert output.grounding_map.dtype == torch.float32
    assert output.image_features.shape == (2, CELLS, WIDTH)
    assert output.start_of_answer.shape == (3, WIDTH)


def test_warm_start_copies_the_two_layers():
    frozen = tiny_frozen_parts(layers=(1, 2))
    weights = SegmentationHead(ModelConfig(), frozen, 2).network.layers.state_dict()
    assert weights.keys() == frozen.decoder_layers[2].keys()
    for name, weight in frozen.decoder_layers[2].items():
        assert torch.equal(weights[name], weight), name


def test_without_warm_start_no_weights_are_needed():
    frozen = dataclasses.replace(tiny_frozen_parts(), decoder_layers={})
    head = SegmentationHead(ModelConfig(warm_start=False), frozen, 3)
    names = [name for name, _ in head.named_parameters()]
    assert not any("embed_tokens" in name for name in names)
    assert "network.norm.weight" in names


def test_weights_stay_float32_whatever_the_mllm_was_saved_in():
    frozen = tiny_frozen_parts()
    config = {**frozen.text_config, "dtype": "bfloat16", "torch_dtype": "bfloat16"}
    head = SegmentationHead(ModelConfig(), dataclasses.replace(frozen, text_config=config), 1)
    assert {p.dtype for p in head.parameters()} == {torch.float32}


def test_layer_types_are_those_of_the_two_layers():
    kinds = ["full_attention", "full_attention", "sliding_attention", "full_attention"]
    config = {**text_config("qwen2"), "layer_types": kinds}
    frozen = dataclasses.replace(tiny_frozen_parts(kind="qwen2"), text_config=config)
    head = SegmentationHead(ModelConfig(warm_start=False), frozen, 2)
    assert head.network.config.layer_types == kinds[2:4]
    head = SegmentationHead(ModelConfig(warm_start=False), frozen, 3)
    assert head.network.config.layer_types == ["full_attention", "full_attention"]


def test_missing_weights_name_the_choices():
    with pytest.raises(CheckpointError, match=r"layers 7 and 8 .* those of layers \[1\]; set"):
        SegmentationHead(ModelConfig(), tiny_frozen_parts(), 7)


def test_weights_that_do_not_fit_are_named():
    frozen = tiny_frozen_parts()
    weights = dict(frozen.decoder_layers[1])
    del weights["1.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"missing weights.*1\.mlp\.up_proj\.weight"):
        SegmentationHead(ModelConfig(), dataclasses.replace(frozen, decoder_layers={1: weights}), 1)


@pytest.mark.parametrize("kind", ["no_such_kind", None])
def test_an_unknown_kind_of_mllm_is_named(kind):
    frozen = tiny_frozen_parts()
    config = {**frozen.text_config, "model_type": kind}
    with pytest.raises(ConfigError, match=f"building the head .*{kind}"):
        SegmentationHead(ModelConfig(), dataclasses.replace(frozen, text_config=config), 1)


@pytest.mark.parametrize("rows", ["mean", "last"])
def test_gradients_stay_finite_where_text_looks_away_from_the_image(rows):
    head = _head(attention_rows=rows)
    with torch.no_grad():
        # Strong scores set the tokens apart until the attention to the image underflows.
        head.network.layers[0].self_attn.q_proj.weight.mul_(1e5)
    head(random_features((5, 4), (3,))).grounding_map.square().sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


def test_the_attention_loss_reaches_layer_one_only():
    head = _head()
    head(random_features((5,))).grounding_map.square().sum().backward()
    reached = {n for n, p in head.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {
        "network.layers.0.self_attn.q_proj.weight",
        "network.layers.0.self_attn.k_proj.weight",
        "network.layers.0.input_layernorm.weight",
    }


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_configuration_as_transformers_writes_it_keeps_its_rotary_embedding(kind):
    settings = {**text_config(), "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    del settings["model_type"]
    mllm = AutoModel.from_config(AutoConfig.for_model(kind, **settings))
    written = json.loads(json.dumps(mllm.config.to_dict()))
    frozen = dataclasses.replace(tiny_frozen_parts(kind=kind), text_config=written)
    head = SegmentationHead(ModelConfig(), frozen, 1)
    torch.testing.assert_close(head.network.rotary_emb.inv_freq, mllm.rotary_emb.inv_freq)
    assert head.network.rotary_emb.inv_freq[1] == pytest.approx(5e5 ** (-2 / 8))
