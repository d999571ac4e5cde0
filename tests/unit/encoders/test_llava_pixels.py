"""The table of normalised pixels gives the bits of Hugging Face's image processor."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from lens_cache.encoders.llava_pixels import TowerPixels
from lens_cache.encoders.llava_prompt import load_processor, square_side


def processor_of(side, **settings):
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return CLIPImageProcessorPil(**{**sizes, **settings})


def noise(side):
    return np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)


def ramp(side):
    return np.linspace(0, 255, side * side * 3).astype(np.uint8).reshape(side, side, 3)


def padded(side):
    """As most images are: black on the right."""
    square = noise(side)
    square[:, side * 2 // 3 :] = 0
    return square


def grey(side):
    """As from an image of one channel."""
    return np.asarray(Image.fromarray(noise(side)[..., 0]).convert("RGB"))


def white(side):
    return np.full((side, side, 3), 255, np.uint8)


@pytest.mark.parametrize("content", [noise, ramp, padded, grey, white])
@pytest.mark.parametrize("side", [1, 2, 31, 335, 336, 337, 673, 1024])
def test_squares_of_any_side_have_the_bits_of_the_processor(content, side):
    processor, square = processor_of(336), content(side)
    expected = processor(Image.fromarray(square), return_tensors="pt")["pixel_values"][0]
    pixels = TowerPixels(processor, 336)
    assert pixels.is_fast
    made = pixels(square)
    assert made.dtype == expected.dtype == torch.float32
    assert torch.equal(made, expected)


def test_the_processor_of_a_checkpoint_is_matched(tiny_checkpoints):
    processor = load_processor(tiny_checkpoints / "llava")
    pixels = TowerPixels(processor.image_processor, square_side(processor))
    assert pixels.is_fast
    square = padded(101)
    expected = processor.image_processor(Image.fromarray(square), return_tensors="pt")
    assert torch.equal(pixels(square), expected["pixel_values"][0])


@pytest.mark.parametrize(
    ("settings", "is_fast"),
    [
        ({"size": {"height": 56, "width": 56}}, True),
        ({"image_mean": [0.5, 0.25, 0.0], "image_std": [0.1, 0.2, 3.0]}, True),
        ({"do_normalize": False}, True),
        ({"do_rescale": False}, True),
        ({"resample": Image.Resampling.BILINEAR}, False),
        ({"resample": Image.Resampling.LANCZOS}, False),
    ],
)
def test_other_settings_have_the_bits_of_their_processor(settings, is_fast):
    processor, square = processor_of(56, **settings), noise(200)
    pixels = TowerPixels(processor, 56)
    assert pixels.is_fast == is_fast
    expected = processor(Image.fromarray(square), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(pixels(square), expected.float())


def test_a_tower_with_fewer_pixels_than_values_is_served_by_its_processor():
    processor, square = processor_of(8), noise(64)
    pixels = TowerPixels(processor, 8)
    assert not pixels.is_fast
    expected = processor(Image.fromarray(square), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(pixels(square), expected)
