from collections import Counter

import numpy as np
import pytest
import torch
import transformers.modeling_utils
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlavaModel

import lens_cache.encoders.llava as llava_module
from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_tower import image_features, truncate_tower
from lens_cache.encoders.reference import PlainLlava
from lens_cache.errors import ConfigError
from lens_cache.features.packing import additive_mask, block_mask, chunks, position_ids
from tests.support.llava import (
    LAYERS,
    ODD,
    QUESTIONS,
    assert_equals_plain,
    close,
    picture,
    text_ids,
)


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


@pytest.mark.parametrize(("read", "kept"), [(-2, 2), (-1, 3), (1, 1), ([0, -2], 2)])
def test_the_tower_ends_where_it_is_read(folder, prompt, read, kept):
    model = LlavaModel.from_pretrained(folder, dtype=torch.float32)
    pixels = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    model.config.vision_feature_layer = read
    if not isinstance(read, int):  # the projector reads one layer
        model.multi_modal_projector.linear_1 = torch.nn.Linear(2 * 64, 64)
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values=pixels).pooler_output[0]
        for _ in range(2):
            truncate_tower(model)
            assert len(model.vision_tower.encoder.layers) == kept
            assert torch.equal(image_features(model, pixels)[0], expected)


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
    language = encoder.model.language_model
    forward = language.forward
    monkeypatch.setattr(language, "forward", lambda **kwargs: calls.append(1) or forward(**kwargs))
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
    """Why ``encode`` passes floats: under ``eager`` a bool mask is added, not applied."""
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
def test_an_image_that_is_not_a_square_is_refused(encoder, shape):
    with pytest.raises(ValueError, match="square must have shape"):
        encoder.encode(np.zeros(shape, dtype=np.uint8), [])


def test_loading_and_encoding_is_quiet(folder, prompt, capfd, recwarn):
    encoder = LlavaEncoder.from_checkpoint(folder, layers=(14,))
    encoder.encode(picture(), text_ids(prompt, *QUESTIONS))
    assert len(prompt.token_ids("z" * 5000).text_ids) > 4096  # the tokenizer's own limit
    PlainLlava.from_checkpoint(folder).states(picture(), "a dog", (14,))
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
