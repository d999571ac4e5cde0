import pytest
import torch

from lens_cache.errors import CheckpointError
from lens_cache.models.decoder import PromptedDecoder
from tests.support.tiny import SAM, sam_modules, sam_weights

DIM = SAM.transformer_dim
M = 4


def _decoder(**settings):
    torch.manual_seed(1)
    return PromptedDecoder(SAM, sam_weights(), **settings).eval()


def _inputs(token_mask=None):
    generator = torch.Generator().manual_seed(2)
    if token_mask is None:
        token_mask = torch.tensor(
            [[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
        ).bool()
    count = len(token_mask)
    return {
        "descriptions": torch.randn(count, M, DIM, generator=generator),
        "global_description": torch.randn(count, DIM, generator=generator),
        "keypoints": torch.rand(count, M, 2, generator=generator),
        "token_mask": token_mask,
        "image_embeddings": torch.randn(2, DIM, 8, 8, generator=generator),
        "image": torch.tensor([0, 0, 0, 1, 1])[:count],
    }


@torch.no_grad()
def test_batched_decoder_equals_a_loop_over_sam():
    decoder, inputs = _decoder(), _inputs()
    logits = decoder(**inputs).low_res_logits
    prompt_encoder, mask_decoder = sam_modules()
    assert logits.shape == (5, 32, 32)
    for q, present in enumerate(inputs["token_mask"]):
        pixels = inputs["keypoints"][q : q + 1] * SAM.image_size
        positions = prompt_encoder.pe_layer.forward_with_coords(pixels, (64, 64))
        local = inputs["descriptions"][q : q + 1] + positions
        whole = inputs["global_description"][q : q + 1, None] + decoder.cls_position
        sparse = torch.cat([local, whole], dim=1)[:, present]
        dense = prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(1, -1, 8, 8)
        image = int(inputs["image"][q])
        expected, _ = mask_decoder(
            image_embeddings=inputs["image_embeddings"][image : image + 1],
            image_pe=prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        torch.testing.assert_close(logits[q], expected[0, 0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_absent_tokens_have_no_influence():
    decoder, inputs = _decoder(), _inputs()
    present = inputs["token_mask"]
    changed = dict(inputs)
    changed["descriptions"] = torch.where(present[:, :-1, None], inputs["descriptions"], 50.0)
    changed["global_description"] = torch.where(present[:, -1:], inputs["global_description"], 50.0)
    torch.testing.assert_close(decoder(**changed).low_res_logits, decoder(**inputs).low_res_logits)


def test_no_prompt_at_all_stays_finite_forwards_and_backwards():
    decoder = _decoder()
    inputs = _inputs(torch.zeros(2, M + 1, dtype=torch.bool))
    inputs["descriptions"].requires_grad_()
    logits = decoder(**inputs).low_res_logits
    logits.sum().backward()
    assert logits.isfinite().all()
    assert inputs["descriptions"].grad.isfinite().all()
    assert decoder.cls_position.grad.isfinite().all()


def test_positions_are_sams_point_positions_without_label_and_half_pixel():
    decoder = _decoder()
    prompt_encoder, _ = sam_modules()
    centres = torch.tensor([[[0.5, 0.5], [10.5, 3.5]]]) / SAM.image_size
    labelled = prompt_encoder._embed_points(
        torch.tensor([[[0.0, 0.0], [10.0, 3.0]]]), torch.ones(1, 2), pad=False
    )
    expected = labelled - prompt_encoder.point_embeddings[1].weight
    torch.testing.assert_close(decoder.encode_positions(centres), expected, atol=1e-5, rtol=1e-5)


def test_a_cells_centre_has_the_position_code_of_that_cell():
    decoder = _decoder()
    cells = torch.tensor([[[2.5, 5.5]]]) / SAM.embedding_size  # x = 2, y = 5
    code = decoder.encode_positions(cells)[0, 0]
    torch.testing.assert_close(code, decoder.image_pe[0, 5 * 8 + 2], atol=1e-5, rtol=1e-5)


def test_positions_keep_their_precision_under_autocast():
    decoder, inputs = _decoder(), _inputs()
    exact = decoder.encode_positions(inputs["keypoints"])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(decoder.encode_positions(inputs["keypoints"]), exact)
        logits = decoder(**inputs).low_res_logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, decoder(**inputs).low_res_logits, atol=0.05, rtol=0.2)


def test_only_the_cls_position_is_trained_by_default():
    names = [n for n, p in _decoder().named_parameters() if p.requires_grad]
    assert names == ["cls_position"]


def test_a_trained_mask_decoder_has_a_gradient_everywhere():
    decoder = _decoder(train_mask_decoder=True)
    decoder(**_inputs()).low_res_logits.square().sum().backward()
    trained = {n for n, p in decoder.named_parameters() if p.requires_grad}
    assert {n for n, p in decoder.named_parameters() if p.grad is not None} == trained
    assert "mask_decoder.transformer.layers.0.self_attn.q_proj.weight" in trained
    assert not any("prompt_encoder" in name or "iou_prediction_head" in name for name in trained)


def test_weights_are_sams_own():
    own = _decoder().state_dict()
    for name, weight in sam_weights().items():
        assert torch.equal(own[name], weight), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda w: w.pop("mask_decoder.iou_token.weight"),
            r"missing weights \(1\): mask_decoder",
        ),
        (lambda w: w.update(other=torch.ones(1)), r"unknown weights \(1\): other"),
        (
            lambda w: w.update({"mask_decoder.iou_token.weight": torch.ones(1, 3)}),
            r"iou_token\.weight \(expected \(1, 32\), found \(1, 3\)\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message):
    weights = sam_weights()
    change(weights)
    with pytest.raises(CheckpointError, match=message):
        PromptedDecoder(SAM, weights)
