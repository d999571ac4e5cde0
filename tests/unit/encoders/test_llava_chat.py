"""The whole LLaVA: its answers are its own, and its states are those that LENS reads elsewhere."""

import pytest
import torch
from PIL import Image

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.llava_chat import LlavaChat
from lens_cache.encoders.reference import PlainLlava
from lens_cache.errors import CheckpointError, ConfigError
from tests.support.llava import QUESTIONS, close, picture, text_ids

LAYERS = (14, 16)  # in the middle, and the depth of the model


@pytest.fixture(scope="module", params=LAYERS)
def chat(request, folder):
    return LlavaChat.from_checkpoint(folder, layer=request.param)


@pytest.fixture(scope="module")
def plain(folder):
    return PlainLlava.from_checkpoint(folder)


def generated(plain, square, question, count):
    """Answer with transformers alone: one prompt, no cache that anyone else has filled."""
    inputs = plain.prompt.processor(
        text=plain.prompt.text(question), images=Image.fromarray(square), return_tensors="pt"
    )
    with torch.inference_mode():
        tokens = plain.model.generate(**inputs, max_new_tokens=count, do_sample=False)
    words = tokens[0, inputs["input_ids"].shape[1] :]
    return plain.prompt.processor.tokenizer.decode(words, skip_special_tokens=True).strip()


def test_answers_are_those_of_the_untouched_model(chat, plain):
    for seed in (1, 2):
        square = picture(seed=seed)
        image = chat.read(square)
        for question in QUESTIONS:
            assert image.answer(question, 12) == generated(plain, square, question, 12)


def test_an_answer_has_the_same_bits_before_and_after_lens_read_the_image(chat, prompt):
    """Invariant I11."""
    square = picture()
    logits = []

    def record(_, __, output):
        logits.append(output.detach().clone())

    hook = chat.model.lm_head.register_forward_hook(record)
    untouched = chat.read(square).answer(QUESTIONS[0], 6)
    with_lens = chat.read(square)
    with_lens.text_tokens(text_ids(prompt, *QUESTIONS))
    assert with_lens.answer(QUESTIONS[0], 6) == untouched
    with_lens.text_tokens(text_ids(prompt, *QUESTIONS))
    assert with_lens.answer(QUESTIONS[0], 6) == untouched
    hook.remove()
    third = len(logits) // 3
    assert third > 0
    for other in (logits[third : 2 * third], logits[2 * third :]):
        assert all(torch.equal(a, b) for a, b in zip(logits[:third], other, strict=True))


def test_states_are_those_of_the_encoder_and_of_the_plain_model(chat, plain, folder, prompt):
    encoder = LlavaEncoder.from_checkpoint(folder, layers=[chat.layer])
    square, texts = picture(), text_ids(prompt, *QUESTIONS)
    image = chat.read(square)
    expected = encoder.encode(square, texts)
    close(image.prefix[chat.layer], expected.prefix[chat.layer])
    close(image.image_tokens, expected.image_tokens[chat.layer])
    for _ in range(2):  # a question leaves no trace
        found = image.text_tokens(texts)
        for question, one, other in zip(
            QUESTIONS, found, expected.text_tokens[chat.layer], strict=True
        ):
            close(one, other)
            close(one, plain.states(square, question, [chat.layer])[chat.layer][2])


def test_one_set_of_weights_and_one_pass_of_the_image(chat, prompt):
    first = chat.first_layers
    whole = {p.data_ptr() for p in chat.model.parameters()}
    assert {p.data_ptr() for p in first.parameters()} <= whole
    assert len(first.layers) == chat.layer
    tower, tokens = [], []
    language = chat.model.model.language_model
    hooks = [
        chat.model.model.vision_tower.register_forward_hook(lambda *_: tower.append(1)),
        language.layers[0].register_forward_pre_hook(lambda _, x: tokens.append(x[0].shape[1])),
    ]
    image = chat.read(picture())
    texts = text_ids(prompt, *QUESTIONS)
    image.text_tokens(texts)
    image.answer(QUESTIONS[0], 3)
    for hook in hooks:
        hook.remove()
    shared = len(prompt.prefix_ids) + prompt.num_image_tokens
    assert len(tower) == 1
    assert tokens[0] == shared
    assert max(tokens[1:]) == max(len(text) for text in texts)


def test_a_layer_that_does_not_exist_and_a_folder_that_does_not(folder, tmp_path):
    with pytest.raises(ConfigError, match="a layer between 1 and 16, got 17"):
        LlavaChat.from_checkpoint(folder, layer=17)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        LlavaChat.from_checkpoint(tmp_path, layer=1)
