import json

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor

from lens_cache.datasets.things import read_things
from lens_cache.encoders.sam import build_sam
from lens_cache.errors import DatasetError
from lens_cache.evaluation.baselines import (
    Reading,
    attention_reader,
    masks_above,
    peak_points,
    points_inside,
    random_thing,
)
from lens_cache.evaluation.point_prompter import PointPrompter
from lens_cache.features.types import Features
from lens_cache.images import masks
from lens_cache.images.geometry import logits_to_image
from tests.support.tiny import GRID, SAM, random_image, text_config, text_model, tiny_frozen_parts


def plain_attention(image, question, layer, rows):
    """Return the attention of a plain decoder layer of transformers, run by hand with its rows."""
    model = text_model(text_config())
    sequence = torch.cat([image.prefix, image.image_tokens, question])[None]
    length = sequence.shape[1]
    module = model.layers[layer]
    module.self_attn.config._attn_implementation = "eager"
    causal = torch.full((length, length), float("-inf")).triu(1)[None, None]
    positions = torch.arange(length)[None]
    _, weights = module.self_attn(
        module.input_layernorm(sequence),
        position_embeddings=model.rotary_emb(sequence, positions),
        attention_mask=causal,
    )
    start = len(image.prefix)
    words = weights[0].mean(dim=0)[-len(question) :, start : start + len(image.image_tokens)]
    return (words.mean(dim=0) if rows == "mean" else words[-1]).reshape(GRID)


@pytest.mark.parametrize("rows", ["mean", "last"])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_untrained_head_shows_the_attention_of_the_mllms_own_layer(layer, rows):
    image = random_image((5, 3))
    reader = attention_reader(tiny_frozen_parts(layers=(1, 2)), Reading(layer, rows))
    with torch.inference_mode():
        maps = reader(Features.stack([image])).grounding_map
        for found, question in zip(maps, image.text_tokens, strict=True):
            expected = plain_attention(image, question, layer, rows)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
            assert expected.max() > 2 * expected.mean()


def test_maps_are_cut_at_shares_of_the_peak_that_the_image_shows():
    grounding = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
    found = masks_above(grounding, [0.25, 0.75], width=50, height=30, side=64)
    values = logits_to_image(grounding, width=50, height=30, side=64)
    assert found.shape == (2, 30, 50)
    for share, mask in zip([0.25, 0.75], found, strict=True):
        for row in range(0, 30, 7):
            for column in range(0, 50, 7):
                assert mask[row, column] == (values[row, column] > share * values.max())


def test_the_peak_is_the_centre_of_the_strongest_cell():
    maps = torch.zeros(2, 4, 8)
    maps[0, 3, 0] = maps[1, 1, 6] = 1
    expected = torch.tensor([[[0.5 / 8, 3.5 / 4]], [[6.5 / 8, 1.5 / 4]]])
    torch.testing.assert_close(peak_points(maps), expected)


@pytest.mark.parametrize("size", [(64, 64), (64, 40)])
def test_points_prompt_sam_as_segment_anything_itself_does(size):
    height, width = size
    torch.manual_seed(0)
    sam = build_sam(SAM)
    predictor = SamPredictor(sam)
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))
    weights = {
        name: value
        for name, value in sam.state_dict().items()
        if name.startswith(("prompt_encoder.", "mask_decoder."))
    }
    prompter = PointPrompter(SAM, weights).eval()
    pixels = np.array([[3, 20], [31, 7], [39, 39]])
    for count in (1, 3):
        expected, _, low = predictor.predict(
            pixels[:count], np.ones(count), multimask_output=False, return_logits=True
        )
        points = torch.tensor((pixels[:count] + 0.5) / 64, dtype=torch.float32)
        with torch.inference_mode():
            both = prompter(predictor.features[0], torch.stack([points, points]))
        torch.testing.assert_close(both[0], torch.from_numpy(low[0]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(both[1], both[0], rtol=1e-4, atol=1e-5)
        logits = logits_to_image(both[0], width=width, height=height, side=64)
        torch.testing.assert_close(logits, torch.from_numpy(expected[0]), rtol=1e-4, atol=1e-5)


def test_oracle_points_lie_deep_inside_the_mask_and_apart():
    mask = torch.zeros(60, 80, dtype=torch.bool)
    mask[10:31, 10:31] = True
    mask[40:49, 60:69] = True
    mask[0, 79] = True  # a speck
    pixels = points_inside(mask) * 80
    torch.testing.assert_close(pixels[:2], torch.tensor([[20.5, 20.5], [64.5, 44.5]]))
    assert torch.pdist(pixels).min() > 10
    assert not (pixels[:, 1] < 1).any()


@pytest.mark.parametrize("mask", [torch.ones(5, 9, dtype=torch.bool), torch.eye(7) > 0])
def test_any_mask_has_an_oracle_point(mask):
    points = points_inside(mask)
    assert 1 <= len(points) <= 3
    for x, y in (points * max(mask.shape)).tolist():
        assert mask[int(y), int(x)]


def test_the_expectation_of_a_random_thing_is_the_mean_over_all():
    rng = np.random.default_rng(0)
    things = rng.random((4, 9, 7)) < 0.4
    target, ignore = things[1] | things[2], rng.random((9, 7)) < 0.2
    ious = [
        np.sum(thing & target & ~ignore) / np.sum((thing | target) & ~ignore) for thing in things
    ]
    found = random_thing(*map(torch.from_numpy, (things, target, ignore)), drawn=2)
    assert found.iou == pytest.approx(np.mean(ious), abs=1e-5)
    assert found.intersection == np.sum(things[2] & target & ~ignore)
    assert found.union == np.sum((things[2] | target) & ~ignore)


def test_things_are_read_by_image(tmp_path):
    assert read_things(tmp_path, ["images/a.png"]) is None
    mask = np.eye(5, dtype=bool)
    line = {"image": "images/a.png", "things": [{"shape": "star", "rle": masks.encode(mask)}]}
    other = {"image": "images/b.png", "things": "not read"}
    (tmp_path / "scenes.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps(other)}\n")
    found = read_things(tmp_path, ["images/a.png", "images/c.png"])
    assert list(found) == ["images/a.png"]
    (thing,) = found["images/a.png"]
    assert (masks.decode(thing) == mask).all()


@pytest.mark.parametrize("line", ["{", "[]", '{"image": "a"}', '{"image": "a", "things": [{}]}'])
def test_a_broken_list_of_things_is_refused_in_one_line(tmp_path, line):
    (tmp_path / "scenes.jsonl").write_text(line + "\n")
    with pytest.raises(DatasetError, match=r"scenes\.jsonl, line 1: expected an object") as caught:
        read_things(tmp_path, ["a"])
    assert "\n" not in str(caught.value)
