import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_cache.config.data import DataConfig
from lens_cache.datasets.questions import clean_class_name, is_long, question
from lens_cache.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("person", "person"),
        ("TV", "tv"),
        ("wall-other-merged", "wall"),
        ("tree-merged", "tree"),
        ("door-stuff", "door"),
        ("water-other", "water"),
        ("wall-brick", "brick wall"),
        ("floor-wood", "wood floor"),
        ("window-blind", "window blind"),
        ("playingfield", "playing field"),
        ("potted plant", "potted plant"),
        ("t-shirt", "t-shirt"),
        ("bow_(weapon)", "bow"),
        ("traffic_light", "traffic light"),
        ("  hot   dog ", "hot dog"),
        ("other", "other"),
        ("-other", "-other"),
        ("(odd)", "(odd)"),
    ],
)
def test_clean_class_name(name, words):
    assert clean_class_name(name) == words


@given(st.text(min_size=1).filter(str.strip))
def test_a_clean_name_is_never_empty(name):
    assert clean_class_name(name).strip()


@pytest.mark.parametrize(
    "text",
    [
        "What can be used to cut bread?",
        "Please segment the dog",
        "which cup is full of tea",
        "Segment everything that flies!",
        "The dog has found something that it would like to eat.",
        "dog?",
    ],
)
def test_sentences_are_long(text):
    assert is_long(text)


@pytest.mark.parametrize(
    "text",
    ["dog", "the man in the red shirt on the left", "man on left.", "what", "show jumper", ""],
)
def test_names_are_short(text):
    assert not is_long(text)


def test_question_fills_the_template_of_its_length():
    config = DataConfig(short_question=" Where is {instruction}? ", long_question="{instruction}")
    assert question(" the dog ", "short", config) == "Where is the dog?"
    assert question(" Who barks? ", "long", config) == "Who barks?"


def test_paper_question_is_the_default():
    assert question("the orange", "short", DataConfig()) == "What is the orange in this image?"


def test_braces_in_an_instruction_are_text():
    assert question("{x} {0}", "long", DataConfig()) == "{x} {0}"


@pytest.mark.parametrize("length", ["short", "long"])
def test_template_without_instruction(length):
    config = DataConfig(**{f"{length}_question": "What is this?"})
    message = rf"^data.{length}_question must contain \{{instruction\}}, got 'What is this\?'$"
    with pytest.raises(ConfigError, match=message):
        question("dog", length, config)
