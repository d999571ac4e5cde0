import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import normalizers
from transformers import LlamaTokenizer

from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.errors import CheckpointError, ConfigError
from lens_cache.toy.small_llava import build_processor
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


# Ids of Llama 2's tokenizer, with <image> and <pad> added as in the checkpoints of llava-hf.
LLAMA_IDS = {
    "<unk>": 0,
    "<s>": 1,
    "</s>": 2,
    "\u2581A": 319,
    "\u2581chat": 13563,
    "\u2581between": 1546,
    "\u2581a": 263,
    "\u2581curious": 12758,
    "\u2581user": 1404,
    "\u2581and": 322,
    "\u2581an": 385,
    "\u2581artificial": 23116,
    "\u2581intelligence": 21082,
    "\u2581assistant": 20255,
    ".": 29889,
    "\u2581The": 450,
    "\u2581gives": 4076,
    "\u2581helpful": 8444,
    ",": 29892,
    "\u2581detailed": 13173,
    "\u2581pol": 1248,
    "ite": 568,
    "\u2581answers": 6089,
    "\u2581to": 304,
    "\u2581the": 278,
    "'": 29915,
    "s": 29879,
    "\u2581questions": 5155,
    "\u2581US": 3148,
    "ER": 1001,
    ":": 29901,
    "\u2581": 29871,
    "<0x0A>": 13,
    "What": 5618,
    "\u2581is": 338,
    "\u2581in": 297,
    "\u2581image": 1967,
    "?": 29973,
    "SS": 1799,
    "IST": 9047,
    "ANT": 13566,
    "<image>": 32000,
    "<pad>": 32001,
}


def test_ids_are_those_of_llamas_vocabulary(tmp_path):
    """The blank behind ``<image>`` depends on whether tokenizer.json is read as it is written."""
    merges = dict.fromkeys(
        (word[:n], word[n])
        for word in LLAMA_IDS
        if not word.startswith("<")
        for n in range(1, len(word))
    )
    vocabulary = dict(LLAMA_IDS)
    for token in ("".join(pair) for pair in merges):
        vocabulary.setdefault(token, 40000 + len(vocabulary))
    for character in {character for word in LLAMA_IDS for character in word}:
        vocabulary.setdefault(character, 40000 + len(vocabulary))
    tokenizer = LlamaTokenizer(
        vocab=vocabulary,
        merges=list(merges),
        add_bos_token=True,
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
    )
    # llava-hf's tokenizer.json starts every piece of text with a blank, by these normalizers.
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.backend_tokenizer.pre_tokenizer = None
    build_processor(tokenizer, image_side=336, patch_size=14).save_pretrained(tmp_path)
    settings_file = tmp_path / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text()) | {"tokenizer_class": "LlamaTokenizer"}
    settings_file.write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    prompt = LlavaPrompt.from_folder(tmp_path)
    tokens = prompt.token_ids("What is in the image?")
    # fmt: off
    assert list(tokens.prefix_ids) == [
        1, 319, 13563, 1546, 263, 12758, 1404, 322, 385, 23116, 21082, 20255, 29889, 450, 20255,
        4076, 8444, 29892, 13173, 29892, 322, 1248, 568, 6089, 304, 278, 1404, 29915, 29879, 5155,
        29889, 3148, 1001, 29901, 29871,
    ]
    assert list(tokens.text_ids) == [
        29871, 13, 5618, 338, 297, 278, 1967, 29973, 319, 1799, 9047, 13566, 29901,
    ]
    # fmt: on
    assert (prompt.image_token_id, prompt.num_image_tokens) == (32000, 576)
