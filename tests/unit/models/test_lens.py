import dataclasses

import pytest
import torch

from lens_cache.config.train import LossConfig, ModelConfig
from lens_cache.errors import ConfigError
from lens_cache.features.types import Features
from lens_cache.models import head as head_module
from lens_cache.models.grounding_map import aggregate_rows as head_module_aggregate_rows
from lens_cache.models.lens import LensModel
from lens_cache.training.losses import LensLoss
from lens_cache.training.targets import Targets
from tests.support.tiny import (
    GRID,
    PREFIX_LENGTH,
    SAM,
    WIDTH,
    random_features,
    random_image,
    tiny_frozen_parts,
)


def _model(seed=0, **settings):
    frozen = tiny_frozen_parts()
    torch.manual_seed(seed)
    return LensModel(ModelConfig(keypoint_threshold=0.0, nms_radius=1.0, **settings), frozen)


def _loss(model, features, count):
    """Return the loss against squares that differ from question to question."""
    attention = torch.zeros(count, 12, 12, dtype=torch.bool)
    masks = [torch.zeros(24, 24, dtype=torch.bool) for _ in range(count)]
    for i in range(count):
        attention[i, 3 * i : 3 * i + 4, 2:6] = True
        masks[i][6 * i : 6 * i + 8, 4:12] = True
    targets = Targets(
        attention=attention,
        attention_valid=torch.ones_like(attention),
        masks=masks,
        valid=[torch.ones_like(mask) for mask in masks],
    )
    return LensLoss(LossConfig(), side=SAM.image_size)(model(features), targets).total


TENSORS = ("low_res_logits", "grounding_map", "keypoints", "keypoint_mask")


def _assert_same(actual, expected):
    assert actual.coordinates == expected.coordinates
    for name in TENSORS:
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), atol=1e-5, rtol=1e-5
        )


def _rows(segmentation, rows):
    return dataclasses.replace(
        segmentation, **{name: getattr(segmentation, name)[rows] for name in TENSORS}
    )


@torch.no_grad()
def test_shapes_and_frames():
    output = _model().eval()(random_features((5, 4), (3,)))
    assert output.low_res_logits.shape == (3, 32, 32)
    assert output.grounding_map.shape == (3, *GRID)
    assert output.keypoints.shape == (3, 16, 2)
    assert output.keypoint_mask.dtype == torch.bool
    assert output.keypoint_mask.any(dim=1).all()
    assert output.keypoints.min() >= 0
    assert output.keypoints.max() <= 1


@torch.no_grad()
def test_the_first_keypoint_lies_at_the_peak():
    output = _model().eval()(random_features((5, 4), (3,)))
    peak = output.grounding_map.flatten(1).argmax(dim=1)
    centre = torch.stack([peak % GRID[1] + 0.5, peak // GRID[1] + 0.5], dim=1) / GRID[0]
    assert ((output.keypoints[:, 0] - centre).abs() <= 1 / GRID[0]).all()


@torch.no_grad()
def test_packed_questions_equal_separate_forwards():
    model, image = _model().eval(), random_image((5, 4, 1, 7))
    packed = model(Features.stack([image]))
    for i, text in enumerate(image.text_tokens):
        alone = model(Features.stack([dataclasses.replace(image, text_tokens=[text])]))
        _assert_same(_rows(packed, slice(i, i + 1)), alone)


@torch.no_grad()
def test_a_batch_of_two_equals_two_batches_of_one():
    model, images = _model().eval(), [random_image((5, 4), 0), random_image((2,), 1)]
    both = model(Features.stack(images))
    _assert_same(_rows(both, slice(0, 2)), model(Features.stack(images[:1])))
    _assert_same(_rows(both, slice(2, 3)), model(Features.stack(images[1:])))


def _plain(seed=0, **settings):
    """Return a model in training without anything random."""
    model = _model(seed, global_only_probability=0.0, train_mask_decoder=True, **settings).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    model.double().decoder.prompt_encoder.float()  # SAM turns coordinates into float32
    return model


def _square_losses(model, features, numbers):
    """Return the losses against squares, one for each question by its number."""
    side = torch.arange(12)
    masks = torch.stack(
        [((side[:, None] // 4 + side // 4 + number) % 3 == 0) for number in numbers]
    )
    targets = Targets(masks, torch.ones_like(masks), masks, torch.ones_like(masks))
    return LensLoss(LossConfig(mask_size=12), side=SAM.image_size)(model(features), targets)


@pytest.mark.parametrize("rows", ["mean", "last"])
def test_grouped_batches_learn_as_batches_of_one_question(rows):
    """Ragged: images with three, one and two questions of different lengths."""
    images = [random_image((5, 4, 7), 0), random_image((2,), 1), random_image((3, 6), 2)]
    grouped, single = _plain(attention_rows=rows), _plain(attention_rows=rows)
    features = Features.stack(images).to("cpu", torch.float64)
    together = _square_losses(grouped, features, range(6))
    together.total.backward()
    alone = [
        dataclasses.replace(image, text_tokens=[text])
        for image in images
        for text in image.text_tokens
    ]
    for number, image in enumerate(alone):
        features = Features.stack([image]).to("cpu", torch.float64)
        losses = _square_losses(single, features, [number])
        torch.testing.assert_close(losses.each[0], together.each[number], atol=1e-9, rtol=1e-7)
        (losses.total / len(alone)).backward()
    others = dict(single.named_parameters())
    trained = [(name, p) for name, p in grouped.named_parameters() if p.requires_grad]
    assert len(trained) > 50
    for name, parameter in trained:
        torch.testing.assert_close(
            parameter.grad, others[name].grad, atol=1e-9, rtol=1e-6, msg=name
        )


def test_every_token_is_worked_on_once():
    """The prefix once, each image once whatever its questions, no padding; rows of text alone."""
    model, features = _model(), random_features((5, 4, 7), (2,), (3, 6))
    tokens, rows = [], []
    head = model.head.network
    head.layers[0].mlp.register_forward_hook(lambda _, x, y: tokens.append(x[0].shape[:-1].numel()))
    with pytest.MonkeyPatch.context() as patch:
        aggregate = head_module_aggregate_rows
        patch.setattr(
            head_module,
            "aggregate_rows",
            lambda log_rows, *rest: rows.append(log_rows.shape) or aggregate(log_rows, *rest),
        )
        model(features)
    cells = GRID[0] * GRID[1]
    assert tokens == [PREFIX_LENGTH + 3 * cells + (5 + 4 + 7) + 2 + (3 + 6)]
    assert rows == [(3, 5 + 4 + 7, cells)]


def test_recomputed_activations_give_the_same_gradients():
    features = random_features((5, 4), (3,))
    models = [_model(train_mask_decoder=True).train() for _ in range(2)]
    models[1].checkpoint_activations()
    kept = []
    for model in models:
        torch.manual_seed(5)  # for the dropout
        count = 0

        def count_bytes(tensor):
            nonlocal count
            count += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count_bytes, lambda tensor: tensor):
            loss = _loss(model, features, 3)
        kept.append(count)
        loss.backward()
    plain, again = (dict(model.named_parameters()) for model in models)
    for name, parameter in plain.items():
        if parameter.requires_grad:
            torch.testing.assert_close(again[name].grad, parameter.grad, atol=0, rtol=0, msg=name)
    assert kept[1] < kept[0] / 2


@pytest.mark.parametrize("train_mask_decoder", [False, True])
@pytest.mark.parametrize("ablation", [{}, {"use_keypoints": False}, {"use_global": False}])
def test_exactly_the_trainable_weights_get_a_gradient(train_mask_decoder, ablation):
    model = _model(train_mask_decoder=train_mask_decoder, **ablation).train()
    _loss(model, random_features((5, 4), (3,)), 3).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    parts = {name.split(".")[0] for name in trained}
    assert parts == {"head", "descriptor", "decoder"}
    assert any("mask_decoder" in name for name in trained) == train_mask_decoder
    assert not any("prompt_encoder" in name for name in trained)


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    model = _model(train_mask_decoder=True).train()
    features = random_features((5, 4), (3,))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(20):
        loss = _loss(model, features, 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_everything_runs_in_bfloat16_with_float32_weights_and_coordinates():
    model, features = _model().train(), random_features((5, 4), (3,))
    with torch.autocast("cpu", torch.bfloat16):
        output = model(features.to("cpu", torch.bfloat16))
        loss = _loss(model, features, 3)
    loss.backward()
    for name in ("low_res_logits", "grounding_map", "keypoints"):
        assert getattr(output, name).dtype == torch.float32, name
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert {g.dtype for g in gradients} == {torch.float32}
    assert all(g.isfinite().all() for g in gradients)


def _prompts(model, features, **arguments):
    """Return the token mask that the decoder was given."""
    seen = []
    handle = model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[3]))
    with torch.no_grad():
        output = model(features, **arguments)
    handle.remove()
    return seen[0], output.keypoint_mask


@pytest.mark.parametrize(("probability", "expected"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0)])
def test_training_withholds_keypoints_per_question(probability, expected):
    model = _model(global_only_probability=probability).train()
    features = Features.stack([random_image((1,) * 60)])
    generator = torch.Generator().manual_seed(0)
    prompts, keypoint_mask = _prompts(model, features, generator=generator)
    withheld = ~prompts[:, :-1].any(dim=1)
    assert prompts[:, -1].all()
    assert torch.equal(prompts[~withheld, :-1], keypoint_mask[~withheld])
    assert withheld.float().mean().item() == pytest.approx(expected, abs=0.15)
    again, _ = _prompts(model, features, generator=torch.Generator().manual_seed(0))
    assert torch.equal(prompts, again)


def test_inference_always_uses_both():
    model = _model(global_only_probability=1.0).eval()
    prompts, keypoint_mask = _prompts(model, random_features((5, 4), (3,)))
    assert torch.equal(prompts[:, :-1], keypoint_mask)
    assert prompts[:, -1].all()


@pytest.mark.parametrize("training", [True, False])
def test_ablations_withhold_one_kind_of_prompt(training):
    features = random_features((5, 4), (3,))
    settings = {"global_only_probability": 1.0}
    prompts, _ = _prompts(_model(use_keypoints=False, **settings).train(training), features)
    assert not prompts[:, :-1].any()
    assert prompts[:, -1].all()
    prompts, mask = _prompts(_model(use_global=False, **settings).train(training), features)
    assert torch.equal(prompts[:, :-1], mask)
    assert not prompts[:, -1].any()


def test_nothing_to_prompt_with_is_refused():
    with pytest.raises(ConfigError, match="are both false"):
        _model(use_keypoints=False, use_global=False)


def test_the_layer_is_the_only_one_or_the_chosen_one():
    one, two = tiny_frozen_parts(layers=(2,)), tiny_frozen_parts(layers=(1, 2))
    assert LensModel(ModelConfig(), one).layer == 2
    assert LensModel(ModelConfig(layer=1), two).layer == 1
    with pytest.raises(ConfigError, match=r"those of layers \[1, 2\]; set model.layer"):
        LensModel(ModelConfig(), two)


def test_descriptor_heads_default_to_the_mllms():
    frozen = tiny_frozen_parts()
    assert LensModel(ModelConfig(), frozen).descriptor.cross_attention.num_heads == 4
    two = LensModel(ModelConfig(num_descriptor_heads=2), frozen)
    assert two.descriptor.cross_attention.num_heads == 2
    assert two.descriptor.cross_attention.embed_dim == WIDTH


@torch.no_grad()
def test_a_neighbourhood_of_one_cell_works():
    output = _model(neighbourhood=1).eval()(random_features((5,)))
    assert output.low_res_logits.isfinite().all()


@torch.no_grad()
def test_features_of_lower_precision_need_no_autocast():
    model, features = _model().eval(), random_features((5, 4), (3,)).to("cpu", torch.bfloat16)
    _assert_same(model(features), model(features.to("cpu", torch.float32)))
