"""Instructions mean exactly what a plain reading of their words finds in the scene."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lens_cache.toy.instructions import sample_instructions
from lens_cache.toy.scene import HARD, STANDARD, sample_scene
from tests.support.shapes_reading import OUTER, SIDES, TOPICS, named, read

SEEDS = st.integers(0, 2**32 - 1)
RULES = st.sampled_from([STANDARD, HARD])
SENTENCES = (
    r"Please segment (.*) in this picture\.",
    r"Can you mark (.*) for me\?",
    r"Show me where to find (.*) here\.",
)
QUESTIONS = (r"Look at the picture and mark what (.*)\.", r"Which of these (.*)\?")


def sampled(seed, rules):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, rules)
    return scene, sample_instructions(scene, rng), rng


def phrase_of(instruction):
    """Return the words without the sentence around them."""
    if instruction.length == "short":
        return instruction.text
    reasoning = instruction.kind == "reasoning"
    for form in QUESTIONS if reasoning else SENTENCES:
        if match := re.fullmatch(form, instruction.text):
            return f"what {match[1]}" if reasoning else match[1]
    raise AssertionError(instruction.text)


@given(SEEDS, RULES)
def test_an_instruction_means_what_its_words_say(seed, rules):
    scene, instructions, _ = sampled(seed, rules)
    for instruction in instructions:
        topic, things = read(phrase_of(instruction), scene)
        assert things == set(instruction.things), instruction
        assert len(things) == len(instruction.things) > 0
        assert topic == instruction.topic, instruction


@given(SEEDS, RULES)
def test_every_kind_is_what_it_is_called(seed, rules):
    for instruction in sampled(seed, rules)[1]:
        phrase, count = phrase_of(instruction), len(instruction.things)
        if instruction.kind == "class":
            assert instruction.topic == "shape"
            assert phrase.endswith("s") == (count > 1)
        elif instruction.kind == "plural":
            assert phrase.startswith("all ")
            assert phrase.endswith("s")
            assert count > 1
        else:
            assert count == 1
            assert instruction.kind == ("reasoning" if instruction.topic == "fact" else "referring")


@given(SEEDS, RULES)
def test_a_place_is_named_where_looks_leave_it_open(seed, rules):
    scene, instructions, _ = sampled(seed, rules)
    for instruction in instructions:
        if instruction.topic not in ("relation", "extreme"):
            continue
        noun = re.split("|".join(SIDES), phrase_of(instruction))[0].removeprefix("the ")
        noun = re.sub("|".join(OUTER), "", noun)
        assert len(named(noun, scene)) > 1, instruction


@given(SEEDS, RULES)
def test_a_seed_gives_the_same_instructions_and_none_twice(seed, rules):
    _, first, _ = sampled(seed, rules)
    assert first == sampled(seed, rules)[1]
    assert len({instruction.text for instruction in first}) == len(first)


def test_every_kind_topic_and_length_occurs():
    found = [i for seed in range(100) for i in sampled(seed, STANDARD)[1]]
    assert {i.kind for i in found} == {"class", "referring", "plural", "reasoning"}
    assert {i.topic for i in found} == set(TOPICS)
    assert 0.2 < np.mean([i.length == "long" for i in found]) < 0.3
    assert 700 <= len(found) <= 900
