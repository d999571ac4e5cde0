"""What the tests of LLaVA share."""

import json
import shutil

import numpy as np
import torch
from safetensors.torch import load_file, save_file

LAYERS = (1, 8, 14)
QUESTIONS = ["What is the red circle in this image?", "the \u2603 dog", "find a cat"]
ODD = ["\u732b\u306f\U0001f431?", "two\nlines\r\n", " spaces ", "{braces} %s", "</s><s><pad>"]


def picture(seed=0, side=128):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def text_ids(prompt, *questions):
    return [prompt.token_ids(question).text_ids for question in questions]


def close(actual, expected, tolerance=1e-5):
    """Compare relative to the size of the states, whose entries are of order 1 to 4."""
    scale = expected.float().std().item()
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


def assert_equals_plain(features, plain, square, questions, layers=LAYERS, tolerance=1e-5):
    for i, question in enumerate(questions):
        for layer, states in plain.states(square, question, layers).items():
            close(features.prefix[layer], states[0], tolerance)
            close(features.image_tokens[layer], states[1], tolerance)
            close(features.text_tokens[layer][i], states[2], tolerance)


def copy(folder, tmp_path, change=lambda weights: None, config=lambda config: None):
    """A copy of the model whose weights and configuration were changed."""
    new = tmp_path / "copy"
    shutil.copytree(folder, new)
    weights = load_file(new / "model.safetensors")
    weights = change(weights) or weights
    save_file(weights, new / "model.safetensors", metadata={"format": "pt"})
    plain = json.loads((new / "config.json").read_text())
    config(plain)
    (new / "config.json").write_text(json.dumps(plain))
    return new
