import json

import pytest
import torch
import transformers.modeling_utils
from safetensors.torch import load_file, save_file

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_checkpoint import decoder_layer_weights, load_config, text_config
from lens_cache.errors import CheckpointError
from tests.support.llava import (
    LAYERS,
    QUESTIONS,
    copy,
    picture,
    text_ids,
)


def test_a_missing_weight_is_named(folder, tmp_path):
    name = "layers.5.mlp.up_proj.weight"

    def drop(weights):
        return {key: value for key, value in weights.items() if name not in key}

    new = copy(folder, tmp_path, drop)
    with pytest.raises(CheckpointError, match=r"missing weights.*layers\.5\.mlp\.up_proj"):
        LlavaEncoder.from_checkpoint(new, layers=(14,))
    assert LlavaEncoder.from_checkpoint(new, layers=(5,)).layers == (5,)
    with pytest.raises(CheckpointError, match=r"decoder layer 5 .* lacks mlp\.up_proj\.weight"):
        decoder_layer_weights(new, (4,))
    assert 14 in decoder_layer_weights(new, (14,))


def test_an_unknown_weight_is_named(folder, tmp_path):
    new = copy(folder, tmp_path, lambda w: w.update({"odd.weight": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"unknown weights.* odd\.weight"):
        LlavaEncoder.from_checkpoint(new, layers=(14,))


def test_a_misshapen_weight_is_refused(folder, tmp_path):
    def change(weights):
        name = next(n for n in weights if n.endswith("layers.3.self_attn.q_proj.weight"))
        weights[name] = torch.zeros(3, 3)

    new = copy(folder, tmp_path, change)
    with pytest.raises(CheckpointError, match=r"layers\.3\.self_attn\.q_proj") as error:
        LlavaEncoder.from_checkpoint(new, layers=(14,))
    assert "\n" not in str(error.value)


def test_a_truncated_weight_file_is_refused(folder, tmp_path):
    new = copy(folder, tmp_path)
    file = new / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match="loading LLaVA"):
        LlavaEncoder.from_checkpoint(new, layers=(14,))
    with pytest.raises(CheckpointError, match="reading LLaVA's weights"):
        decoder_layer_weights(new, (14,))


def test_a_folder_without_weights_is_refused(folder, tmp_path):
    new = copy(folder, tmp_path)
    (new / "model.safetensors").unlink()
    for load in (
        lambda: LlavaEncoder.from_checkpoint(new, layers=(14,)),
        lambda: decoder_layer_weights(new, (14,)),
    ):
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load()


def test_another_kind_of_model_is_refused(folder, tmp_path):
    new = copy(folder, tmp_path, config=lambda c: c.update(model_type="llava_next"))
    with pytest.raises(CheckpointError, match="expected model_type llava, found llava_next"):
        load_config(new)


def canonical(name):
    return (
        name.removeprefix("model.")
        .replace("language_model.model.", "language_model.")
        .replace("language_model.lm_head.", "lm_head.")
    )


def old_name(name):
    """As in llava-hf folders written before transformers 4.52."""
    name = canonical(name)
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    return name.replace("language_model.", "language_model.model.")


def new_name(name):
    name = canonical(name)
    return name if name.startswith("lm_head.") else f"model.{name}"


@pytest.mark.parametrize(
    ("rename", "example"),
    [
        (old_name, "language_model.model.layers.14.mlp.up_proj.weight"),
        (new_name, "model.language_model.layers.14.mlp.up_proj.weight"),
    ],
)
def test_old_and_new_weight_names_load_alike(folder, tmp_path, encoder, prompt, rename, example):
    new = copy(folder, tmp_path, lambda weights: {rename(n): w for n, w in weights.items()})
    assert example in load_file(new / "model.safetensors")
    ids = text_ids(prompt, *QUESTIONS)
    features = LlavaEncoder.from_checkpoint(new, layers=LAYERS).encode(picture(), ids)
    assert torch.equal(features.image_tokens[14], encoder.encode(picture(), ids).image_tokens[14])
    expected = decoder_layer_weights(folder, (14,))[14]
    actual = decoder_layer_weights(new, (14,))[14]
    assert set(actual) == set(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_weights_split_over_files_load_alike(folder, tmp_path, encoder):
    new = copy(folder, tmp_path)
    weights = load_file(new / "model.safetensors")
    (new / "model.safetensors").unlink()
    names = sorted(weights)
    files = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in (0, 1)}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, new / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {n: file for file, part in files.items() for n in part}}
    (new / "model.safetensors.index.json").write_text(json.dumps(index))
    features = LlavaEncoder.from_checkpoint(new, layers=LAYERS).encode(picture(), [])
    assert torch.equal(features.image_tokens[14], encoder.encode(picture(), []).image_tokens[14])
    assert set(decoder_layer_weights(new, (14,))[14]) == set(
        decoder_layer_weights(folder, (14,))[14]
    )


def test_decoder_layers_are_those_of_the_whole_model(folder, plain):
    weights = decoder_layer_weights(folder, (1, 14, 15, 16))
    assert set(weights) == {1, 14}
    layers = plain.model.model.language_model.layers
    for first, found in weights.items():
        for offset in (0, 1):
            expected = layers[first + offset].state_dict()
            part = {n[2:]: w for n, w in found.items() if n.startswith(f"{offset}.")}
            assert set(part) == set(expected)
            assert all(torch.equal(part[n].float(), expected[n]) for n in expected)


def test_text_config_is_plain_json_and_builds_the_model(folder, plain):
    config = text_config(folder)
    assert json.loads(json.dumps(config)) == config
    assert (config["model_type"], config["num_hidden_layers"]) == ("llama", 16)
    assert config["rope_parameters"] == plain.model.config.text_config.rope_parameters
    assert str(folder) not in json.dumps(config)
    rebuilt = transformers.AutoConfig.for_model(**config)
    assert rebuilt.hidden_size == 64
