"""Requests to an agent: true answers, every route, and wordings that the training does not have."""

import re
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lens_cache.agent.routing import route_question
from lens_cache.toy.questions import sample_questions
from lens_cache.toy.requests import (
    ROUTES,
    follow_ups,
    sample_follow_ups,
    sample_marked,
    sample_request,
    sample_talk,
)
from lens_cache.toy.scene import HARD, SIDE, STANDARD, sample_scene
from lens_cache.toy.trained_models import shapes_tokenizer
from lens_cache.toy.vocabulary import WORDS
from lens_cache.toy.wordings import TALK
from tests.support.shapes_reading import FACTS, NUMBERS, described, listed, template

SEEDS = st.integers(0, 2**32 - 1)
RULES = st.sampled_from([STANDARD, HARD])


def answer(text, scene, things):
    """Answer a follow-up by reading it word by word."""
    marked = [scene.things[thing] for thing in things]
    if text in ("Describe what you marked.", "What is it?", "What are they?"):
        return listed(scene, things)
    if text == "How many are marked?":
        return NUMBERS[len(things)]
    if text == "Which side is it on?":
        return "left" if marked[0].x < SIDE / 2 else "right"
    if match := re.fullmatch(r"What (size|colour|shape) (?:is it|are they)\?", text):
        (value,) = {getattr(thing, match[1]) for thing in marked}
        return value
    match = re.fullmatch(r"Is it (\w+)\?", text)
    assert match, text
    return "yes" if match[1] in (marked[0].size, marked[0].colour) else "no"


@given(SEEDS, RULES)
def test_every_follow_up_is_true(seed, rules):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, rules)
    things = sample_marked(scene, rng)
    assert things
    known = follow_ups(scene, things)
    assert len({question.text for question in known}) == len(known) >= 3
    for question in known:
        assert answer(question.text, scene, things) == question.answer
    chosen = sample_follow_ups(scene, things, rng, 3)
    assert len(chosen) == 3
    assert all(question in known for question in chosen)


@given(SEEDS)
def test_yes_and_no_are_equally_frequent_for_colours(seed):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    said = [q.answer for q in follow_ups(scene, (0,)) if re.match("Is it (?!large)", q.text)]
    assert sorted(said) == ["no", "yes"]


def drawn(held_out, count=600):
    for seed in range(count):
        rng = np.random.default_rng([seed, held_out])
        scene = sample_scene(rng, HARD if seed % 3 == 0 else STANDARD)
        yield scene, sample_request(scene, rng, held_out=held_out)


def test_every_route_is_equally_frequent():
    for held_out in (False, True):
        counts = Counter(request.route for _, request in drawn(held_out))
        assert set(counts) == set(ROUTES)
        assert min(counts.values()) > 600 / 3 * 0.8


def shape_of(text):
    """Return a request without what it describes and which fact it states."""
    for fact in sorted(FACTS, key=len, reverse=True):
        text = text.replace(fact, "FACT")
    return template(text)


def test_no_held_out_wording_is_taught():
    taught = {shape_of(request.text) for _, request in drawn(False, 4000)}
    for scene, _ in drawn(False, 200):
        rng = np.random.default_rng(1)
        taught |= {shape_of(question.text) for question in sample_questions(scene, rng, 10)}
    held_out = {shape_of(request.text) for _, request in drawn(True, 1500)}
    # A bare phrase is the same sentence in both; its word for a thing of any shape differs.
    bare = {text for text in held_out if re.fullmatch(r"(the|all|what) [\w *]+", text)}
    assert len(held_out - bare) >= 20
    assert taught.isdisjoint(held_out - bare)


def test_talk_has_one_answer_each():
    found = {}
    for seed in range(1000):
        question = sample_talk(np.random.default_rng(seed))
        assert found.setdefault(question.text, question.answer) == question.answer
    assert set(TALK) < set(found)
    assert found["What colour are lemons?"] == "yellow"
    assert found["What colour is the sky?"] == "blue"


def test_every_word_has_a_token_of_its_own():
    tokenizer = shapes_tokenizer(WORDS)
    texts = [*(f"\n{text}" for text in TALK), *(f" {text}" for text in TALK.values())]
    for scene, request in [*drawn(False, 300), *drawn(True, 300)]:
        texts.append("\n" + route_question(request.text))
        rng = np.random.default_rng(0)
        for question in follow_ups(scene, sample_marked(scene, rng)):
            texts += [f"\n{question.text}", f" {question.answer}"]
    for text in texts:
        tokens = tokenizer.tokenize(text)
        letters = [token for token in tokens if re.fullmatch("[A-Za-z]", token)]
        assert letters in ([], ["I"], ["a"]), (text, tokens)


def test_descriptions_name_size_colour_and_shape():
    scene = sample_scene(np.random.default_rng(0))
    (question,) = [q for q in follow_ups(scene, (1,)) if q.text == "What is it?"]
    assert question.answer == described(scene.things[1])
