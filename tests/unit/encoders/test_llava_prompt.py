import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.errors import CheckpointError, ConfigError
from tests.support.llava import (
    ODD,
    QUESTIONS,
    copy,
    picture,
)


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
    return Image.fromarray(picture(side=96))


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1).filter(str.strip))
def test_any_text_keeps_the_prefix_and_comes_back(prompt, question):
    assume(prompt.processor.image_token not in question)
    tokens = prompt.token_ids(question)
    assert tokens.prefix_ids == prompt.prefix_ids
    assert prompt.image_token_id not in tokens.text_ids
    decoded = prompt.processor.tokenizer.decode(tokens.text_ids)
    # Llama's tokenizers write a space as this sign, so they cannot tell the two apart.
    assert decoded == f"\n{question} ASSISTANT:".replace("\u2581", " ")


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
    with pytest.raises(CheckpointError, match="resizes to 112 and crops to 96 x 96"):
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
