"""What the MLLM is taught: true answers, and nothing of what it will be asked for masks."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lens_cache.toy.instructions import sample_instructions
from lens_cache.toy.questions import WEIGHTS, caption, sample_questions
from lens_cache.toy.scene import HARD, STANDARD, sample_scene
from tests.support.shapes_reading import (
    FACTS,
    NUMBERS,
    described,
    listed,
    named,
    only,
    read,
    template,
)

SEEDS = st.integers(0, 2**32 - 1)
RULES = st.sampled_from([STANDARD, HARD])


def sampled(seed, rules=STANDARD, count=10):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, rules)
    return scene, [caption(scene), *sample_questions(scene, rng, count)], rng


def answer(text, scene):
    """Answer a question by reading it word by word."""
    if text == "Describe the picture.":
        return listed(scene, range(len(scene.things)))
    if match := re.fullmatch(r"Is there a (.*)\?", text):
        return "yes" if named(match[1], scene) else "no"
    if match := re.fullmatch(r"How many (.*) are there\?", text):
        return NUMBERS[len(named(match[1], scene))]
    if match := re.fullmatch(r"List the (.*)\.", text):
        return listed(scene, named(match[1], scene))
    if match := re.fullmatch(r"Describe (.*)\.", text):
        return described(scene.things[only(read(match[1], scene)[1])])
    match = re.fullmatch(r"What (size|colour|shape) is (.*)\?", text)
    assert match, text
    return getattr(scene.things[only(read(match[2], scene)[1])], match[1])


@given(SEEDS, RULES)
def test_every_answer_is_true(seed, rules):
    scene, questions, _ = sampled(seed, rules)
    for question in questions:
        assert answer(question.text, scene) == question.answer, question


@given(SEEDS, RULES)
def test_a_seed_gives_the_same_questions_and_none_twice(seed, rules):
    _, first, _ = sampled(seed, rules)
    assert first == sampled(seed, rules)[1]
    assert len({question.text for question in first}) == len(first) <= 11


@given(SEEDS, RULES)
def test_no_answer_stands_in_its_question(seed, rules):
    _, questions, _ = sampled(seed, rules)
    for question in questions:
        if question.text.startswith("What "):
            said = question.text.split(" is ", 1)[1]
            assert question.answer not in re.split(" left| right| above| below", said)[0].split()


def test_every_type_occurs_and_both_answers_to_whether_something_is_there():
    found = [q for seed in range(100) for q in sampled(seed)[1]]
    assert {q.type for q in found} == {*WEIGHTS, "caption"}
    yes = np.mean([q.answer == "yes" for q in found if q.type == "exist"])
    assert 0.35 < yes < 0.65


def test_no_wording_of_an_instruction_is_taught():
    taught, asked, facts = set(), set(), set()
    for seed in range(150):
        for rules in (STANDARD, HARD):
            scene, questions, rng = sampled([seed, 1], rules)
            taught |= {template(text) for q in questions for text in (q.text, q.answer)}
            instructions = sample_instructions(scene, rng)
            asked |= {template(i.text) for i in instructions}
            # The longest that fits: "has no corners at all" also holds "has no corners".
            said = [[fact for fact in FACTS if fact in i.text] for i in instructions]
            facts |= {max(found, key=len) for found in said if found}
    assert len(taught) > 60
    assert len(asked) > 60
    assert taught.isdisjoint(asked)
    assert len(facts) == 16  # all that instructions know, and of those no question speaks
    assert not [text for text in taught for fact in facts if fact in text]


@given(SEEDS, RULES)
def test_no_number_and_no_word_of_masks_is_taught(seed, rules):
    _, questions, _ = sampled(seed, rules)
    for question in questions:
        assert re.fullmatch(r"[A-Za-z ,.?]+", question.text + question.answer), question
        assert not re.search("(?i)mask|segment|pixel|mark|point out", question.text), question
