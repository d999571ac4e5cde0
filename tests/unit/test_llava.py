import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
import transformers.modeling_utils
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import LlavaModel

import lens_cache.encoders.llava as llava_module
from lens_cache.encoders.llava import (
    LlavaEncoder,
    LlavaPrompt,
    additive_mask,
    chunks,
    decoder_layer_weights,
    text_config,
)
from lens_cache.encoders.llava_weights import load_config
from lens_cache.encoders.plain import PlainLlava
from lens_cache.errors import CheckpointError, ConfigError
from lens_cache.packing import block_mask, position_ids

LAYERS = (1, 8, 14)
QUESTIONS = ["What is the red circle in this image?", "the \u2603 dog", "find a cat"]
ODD = ["\u732b\u306f\U0001f431?", "two\nlines\r\n", " spaces ", "{braces} %s", "</s><s><pad>"]


@pytest.fixture(scope="module")
def folder(tiny_checkpoints):
    return tiny_checkpoints / "llava"


@pytest.fixture(scope="module")
def prompt(folder):
    return LlavaPrompt.from_folder(folder)


@pytest.fixture(scope="module")
def encoder(folder):
    return LlavaEncoder.from_checkpoint(folder, layers=LAYERS)


@pytest.fixture(scope="module")
def plain(folder):
    return PlainLlava.from_checkpoint(folder)


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


# The prompt


def test_prompt_is_that_of_the_released_code(prompt):
    assert prompt.text("the orange") == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. "
        "USER: <image>\nthe orange ASSISTANT:"
    )
    assert (prompt.num_image_tokens, prompt.grid) == (144, (12, 12))
    assert prompt.processor.tokenizer.bos_token_id == prompt.prefix_ids[0]


@pytest.mark.parametrize("question", [*QUESTIONS, *ODD, "very long " * 600])
def test_spans_are_those_of_the_processor(prompt, question):
    tokens = prompt.token_ids(question)
    inputs = prompt.processor(text=prompt.text(question), images=_pil(), return_tensors="np")
    image = [prompt.image_token_id] * prompt.num_image_tokens
    assert inputs["input_ids"][0].tolist() == [*tokens.prefix_ids, *image, *tokens.text_ids]
    assert tokens.prefix_ids == prompt.prefix_ids


def _pil():
    return llava_module.Image.fromarray(picture(side=96))


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1).filter(str.strip))
def test_any_text_keeps_the_prefix_and_comes_back(prompt, question):
    if prompt.processor.image_token in question:
        return
    tokens = prompt.token_ids(question)
    assert tokens.prefix_ids == prompt.prefix_ids
    assert prompt.image_token_id not in tokens.text_ids
    decoded = prompt.processor.tokenizer.decode(tokens.text_ids)
    assert decoded == f"\n{question} ASSISTANT:"


@pytest.mark.parametrize("question", ["", "  \n\t", "the <image> dog", "<image>", "bad \ud800"])
def test_unusable_instructions_are_refused(prompt, question):
    with pytest.raises(ConfigError, match="tokenising") as error:
        prompt.token_ids(question)
    assert "\n" not in str(error.value)


def test_a_processor_that_crops_a_square_is_refused(folder, tmp_path):
    new = copy(folder, tmp_path)
    file = new / "processor_config.json"
    config = json.loads(file.read_text())
    config["image_processor"]["size"] = {"shortest_edge": 112}
    file.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="resizes to 112 and cuts out 96 x 96"):
        LlavaPrompt.from_folder(new)


def test_a_processor_that_counts_wrong_is_refused(folder, tmp_path):
    new = copy(folder, tmp_path)
    file = new / "processor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_additional_image_tokens": 0}))
    with pytest.raises(CheckpointError, match="expected 12 x 12 image tokens in one run"):
        LlavaPrompt.from_folder(new)


def test_a_folder_without_a_processor_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="loading the LLaVA processor"):
        LlavaPrompt.from_folder(tmp_path)


# The encoder


def test_packed_states_equal_plain_forwards(encoder, plain, prompt):
    square = picture()
    features = encoder.encode(square, text_ids(prompt, *QUESTIONS))
    assert features.image_tokens[14].shape == (144, 64)
    assert_equals_plain(features, plain, square, QUESTIONS)


@pytest.mark.parametrize("question", [*ODD, "very long " * 200])
def test_odd_questions_equal_plain_forwards(encoder, plain, prompt, question):
    square = picture(seed=3)
    features = encoder.encode(square, text_ids(prompt, "a dog", question))
    assert_equals_plain(features, plain, square, ["a dog", question])


@pytest.mark.parametrize("layers", [(14,), (15,), (16,), (16, 3)])
def test_every_choice_of_layers_equals_the_whole_model(folder, plain, prompt, layers):
    square = picture()
    encoder = LlavaEncoder.from_checkpoint(folder, layers=layers)
    features = encoder.encode(square, text_ids(prompt, *QUESTIONS))
    assert set(features.prefix) == set(layers)
    assert_equals_plain(features, plain, square, QUESTIONS, layers)


def test_bfloat16_stays_close_to_plain_bfloat16(folder, prompt):
    square = picture()
    encoder = LlavaEncoder.from_checkpoint(folder, layers=LAYERS, dtype=torch.bfloat16)
    plain = PlainLlava.from_checkpoint(folder, dtype=torch.bfloat16)
    features = encoder.encode(square, text_ids(prompt, *QUESTIONS))
    assert features.image_tokens[14].dtype == encoder.dtype == torch.bfloat16
    assert_equals_plain(features, plain, square, QUESTIONS, tolerance=0.1)


def test_only_what_is_needed_is_allocated(folder):
    encoder = LlavaEncoder.from_checkpoint(folder, layers=(14,))
    language_model = encoder.model.language_model
    assert isinstance(encoder.model, LlavaModel)
    assert len(language_model.layers) == 14
    assert list(language_model.norm.parameters()) == []
    assert not any("lm_head" in name for name, _ in encoder.model.named_parameters())
    assert not any(p.requires_grad for p in encoder.model.parameters())
    assert (encoder.num_layers, encoder.hidden_size, encoder.grid) == (16, 64, (12, 12))


def test_only_what_is_needed_is_read(folder, monkeypatch):
    read = Counter()
    original = transformers.modeling_utils.safe_open

    class Slice:
        def __init__(self, name, inner):
            self.name, self.inner = name, inner

        def __getitem__(self, index):
            read[self.name] += 1
            return self.inner[index]

        def __getattr__(self, attribute):
            return getattr(self.inner, attribute)

    class File:
        def __init__(self, *args, **kwargs):
            self.inner = original(*args, **kwargs)

        def __enter__(self):
            self.inner.__enter__()
            return self

        def __exit__(self, *args):
            return self.inner.__exit__(*args)

        def get_slice(self, name):
            return Slice(name, self.inner.get_slice(name))

        def get_tensor(self, name):
            read[name] += 1
            return self.inner.get_tensor(name)

        def __getattr__(self, attribute):
            return getattr(self.inner, attribute)

    monkeypatch.setattr(transformers.modeling_utils, "safe_open", File)
    LlavaEncoder.from_checkpoint(folder, layers=(2,))
    text = {name for name in read if "language_model" in name and ".layers." in name}
    layers = {int(name.split(".layers.")[1].split(".")[0]) for name in text}
    assert layers == {0, 1}
    assert not any("lm_head" in name for name in read)


@pytest.mark.parametrize("texts", [2, 1])
def test_image_states_are_the_same_bits_for_other_questions_of_equal_length(encoder, prompt, texts):
    ids = text_ids(prompt, *["What is the red circle?", "Find the blue dog?"][:texts])
    other = [[5 + (token * 7 + 3) % 600 for token in text] for text in ids]
    assert other != ids
    first, second = (encoder.encode(picture(), chosen) for chosen in (ids, other))
    for layer in LAYERS:
        assert torch.equal(first.image_tokens[layer], second.image_tokens[layer])
        assert torch.equal(first.prefix[layer], second.prefix[layer])
        assert not torch.equal(first.text_tokens[layer][0], second.text_tokens[layer][0])


def test_prefix_states_do_not_depend_on_the_image(encoder):
    first, second = (encoder.encode(picture(seed), []) for seed in (0, 1))
    close(first.prefix[14], second.prefix[14])
    assert (first.image_tokens[14] - second.image_tokens[14]).abs().mean() > 0.1


def test_no_questions_give_the_same_image(encoder, prompt):
    none = encoder.encode(picture(), [])
    some = encoder.encode(picture(), text_ids(prompt, *QUESTIONS))
    assert none.text_tokens == {layer: [] for layer in LAYERS}
    close(none.image_tokens[14], some.image_tokens[14])


def test_repeating_a_forward_gives_the_same_bits(encoder, prompt):
    ids = text_ids(prompt, *QUESTIONS)
    first, second = (encoder.encode(picture(), ids) for _ in range(2))
    assert torch.equal(first.image_tokens[14], second.image_tokens[14])
    for one, other in zip(first.text_tokens[14], second.text_tokens[14], strict=True):
        assert torch.equal(one, other)


def test_many_questions_take_several_forwards(encoder, plain, prompt, monkeypatch):
    monkeypatch.setattr(llava_module, "MAX_TEXT_TOKENS", 30)
    calls = []
    forward = encoder.model.forward
    monkeypatch.setattr(
        encoder.model, "forward", lambda **kwargs: calls.append(1) or forward(**kwargs)
    )
    questions = [*QUESTIONS, "a very long question " * 5, "the cat"]
    features = encoder.encode(picture(), text_ids(prompt, *questions))
    assert len(calls) > 2
    assert_equals_plain(features, plain, picture(), questions)


@given(st.lists(st.integers(1, 9)), st.integers(1, 12))
def test_chunks_keep_order_and_limit(lengths, limit):
    texts = [[i] * length for i, length in enumerate(lengths)]
    groups = list(chunks(texts, limit))
    assert [text for group in groups for text in group] == texts
    assert all(len(group) == 1 or sum(map(len, group)) <= limit for group in groups if group)
    assert len(groups) >= 1
    assert all(groups) or groups == [[]]


def test_tapped_states_are_not_degenerate(encoder, prompt):
    features = encoder.encode(picture(), text_ids(prompt, *QUESTIONS[:2]))
    assert features.image_tokens[14].std(0).min() > 0.1
    assert (features.text_tokens[14][0][-1] - features.text_tokens[14][1][-1]).abs().mean() > 0.1


def test_additive_masks_are_right_for_every_kernel_and_bool_masks_are_not(folder, prompt):
    """Why ``encode`` hands over floats: under ``eager`` a bool mask is added, not applied."""
    texts = text_ids(prompt, "a dog", "the red circle")
    owner = torch.tensor([[0] * len(texts[0]) + [1] * len(texts[1])])
    shared = len(prompt.prefix_ids)
    allowed = block_mask(shared, owner)
    ids = torch.tensor([[*prompt.prefix_ids, *texts[0], *texts[1]]])
    alone = torch.tensor([[*prompt.prefix_ids, *texts[1]]])

    def last(kernel, input_ids, **kwargs):
        model = LlavaModel.from_pretrained(folder, dtype=torch.float32, attn_implementation=kernel)
        with torch.inference_mode():
            return model(input_ids=input_ids, use_cache=False, **kwargs).last_hidden_state[0, -1]

    positions = position_ids(shared, owner)
    additive = additive_mask(allowed, torch.float32)
    for kernel in ("sdpa", "eager"):
        expected = last(kernel, alone)
        packed = last(kernel, ids, attention_mask=additive, position_ids=positions)
        close(packed, expected)
    as_bool = {"attention_mask": allowed, "position_ids": positions}
    close(last("sdpa", ids, **as_bool), expected)
    assert (last("eager", ids, **as_bool) - expected).abs().max() > 0.01


@pytest.mark.parametrize("layers", [(), (0,), (17,), (14, 99)])
def test_layers_out_of_range_are_refused(folder, layers):
    with pytest.raises(ConfigError, match="expected layers between 1 and 16"):
        LlavaEncoder.from_checkpoint(folder, layers=layers)


@pytest.mark.parametrize("shape", [(96, 64, 3), (96, 96), (96, 96, 4)])
def test_an_image_that_is_no_square_is_refused(encoder, shape):
    with pytest.raises(ValueError, match="square must have shape"):
        encoder.encode(np.zeros(shape, dtype=np.uint8), [])


def test_loading_and_encoding_is_quiet(folder, prompt, capfd, recwarn):
    encoder = LlavaEncoder.from_checkpoint(folder, layers=(14,))
    encoder.encode(picture(), text_ids(prompt, *QUESTIONS))
    assert len(prompt.token_ids("z" * 5000).text_ids) > 4096  # the tokenizer's own limit
    PlainLlava.from_checkpoint(folder).states(picture(), "a dog", (14,))
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


# Damaged checkpoints


def test_a_missing_weight_is_named(folder, tmp_path):
    name = "layers.5.mlp.up_proj.weight"

    def drop(weights):
        return {key: value for key, value in weights.items() if name not in key}

    new = copy(folder, tmp_path, drop)
    with pytest.raises(CheckpointError, match=r"lacks language_model\.layers\.5\.mlp\.up_proj"):
        LlavaEncoder.from_checkpoint(new, layers=(14,))
    assert LlavaEncoder.from_checkpoint(new, layers=(5,)).layers == (5,)
    with pytest.raises(CheckpointError, match=r"decoder layer 5 .* lacks mlp\.up_proj\.weight"):
        decoder_layer_weights(new, (4,))
    assert 14 in decoder_layer_weights(new, (14,))


def test_an_unknown_weight_is_named(folder, tmp_path):
    new = copy(folder, tmp_path, lambda w: w.update({"odd.weight": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=r"unknown odd\.weight"):
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


# Old formats, weights for phase 2


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
