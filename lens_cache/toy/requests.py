"""Requests to an agent about scenes: what to segment, what to answer, what follows up.

The tiny multimodal LLM is trained on one set of ``wordings``, and the agent is measured on the
other (``held_out``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lens_cache.toy.instructions import FILLER as INSTRUCTION_FILLER
from lens_cache.toy.instructions import sample_instructions
from lens_cache.toy.language import (
    COLOUR_FACTS,
    EXTREMES,
    NUMBERS,
    RELATIONS,
    enumeration,
    left_to_right,
    look_of,
    looks_in,
    pick,
)
from lens_cache.toy.questions import (
    ATTRIBUTES,
    FILLER,
    SHAPE_FACTS,
    Question,
    caption,
    sample_questions,
)
from lens_cache.toy.scene import COLOURS, SHAPES, SIDE, SIZES, Scene
from lens_cache.toy.wordings import (
    DIALOGUE,
    FOLLOW_UP,
    HELD_OUT_DIALOGUE,
    HELD_OUT_FOLLOW_UP,
    HELD_OUT_TALK,
    SEGMENT,
    SEGMENT_FACT,
    TALK,
    VERBS,
)

Route = Literal["dialogue", "segmentation", "follow-up"]
ROUTES: tuple[Route, ...] = ("dialogue", "segmentation", "follow-up")

# Words for a thing of any shape. That of the instructions is not taught as a bare phrase.
FILLERS = (FILLER, "shape", "item", "figure", "piece", "one")
# Share of the descriptions that name a place.
PLACE_SHARE = 0.3
# Least distance from the middle for a thing to be on one side, in pixels.
CLEARLY_ASIDE = 12.0


@dataclass(frozen=True)
class Request:
    """What a user may write, with the route that an agent should take.

    Attributes:
        text: The request.
        route: ``dialogue``, ``segmentation`` or ``follow-up``.
    """

    text: str
    route: Route


def sample_request(scene: Scene, rng: np.random.Generator, *, held_out: bool = False) -> Request:
    """Return a request; each route has the same probability."""
    route = pick(rng, ROUTES)
    make = {"dialogue": _dialogue, "segmentation": _segmentation, "follow-up": _follow_up}[route]
    return Request(make(scene, rng, held_out), route)


def sample_talk(rng: np.random.Generator) -> Question:
    """Return small talk, or a question about common knowledge, with its answer."""
    if rng.random() < 0.5:
        text = pick(rng, list(TALK))
        return Question("talk", text, TALK[text])
    colour = pick(rng, list(COLOUR_FACTS))
    thing = COLOUR_FACTS[colour]
    be = "are" if thing.endswith("s") else "is"
    return Question("talk", f"What colour {be} {thing}?", colour)


def sample_follow_ups(
    scene: Scene, things: Sequence[int], rng: np.random.Generator, count: int
) -> list[Question]:
    """Return up to ``count`` distinct questions about things that were marked before."""
    known = follow_ups(scene, things)
    return [known[index] for index in rng.permutation(len(known))[:count]]


def follow_ups(scene: Scene, things: Sequence[int]) -> list[Question]:
    """Return all questions about the things that were marked before, with their answers."""
    looks = [look_of(scene.things[thing]) for thing in things]
    colours = {str(look.colour) for look in looks}
    shapes = {str(look.shape) for look in looks}
    phrases = [
        f"a {look_of(scene.things[thing]).noun(FILLER)}" for thing in left_to_right(scene, things)
    ]
    asked: list[tuple[str, str]] = [("Describe what you marked.", enumeration(phrases))]
    if len(things) == 1:
        (look,) = looks
        place = scene.things[things[0]]
        asked += [
            ("What colour is it?", str(look.colour)),
            ("What shape is it?", str(look.shape)),
            ("What size is it?", str(look.size)),
            ("What is it?", phrases[0]),
            ("Is it large?", _yes(look.size == "large")),
            ("How many are marked?", "one"),
        ]
        asked += [(f"Is it {colour}?", _yes(colour in colours)) for colour in _near(colours)]
        if abs(place.x - SIDE / 2) >= CLEARLY_ASIDE:
            asked.append(("Which side is it on?", "left" if place.x < SIDE / 2 else "right"))
    else:
        asked += [
            ("How many are marked?", NUMBERS[len(things)]),
            ("What are they?", enumeration(phrases)),
        ]
        if len(colours) == 1:
            asked.append(("What colour are they?", colours.pop()))
        if len(shapes) == 1:
            asked.append(("What shape are they?", shapes.pop()))
    return [Question("follow-up", text, answer) for text, answer in asked]


def sample_marked(scene: Scene, rng: np.random.Generator) -> tuple[int, ...]:
    """Return things that an instruction may mean: mostly one, otherwise all with some looks."""
    several = [things for _, things in looks_in(scene) if len(things) > 1]
    if several and rng.random() < 0.3:
        return pick(rng, several)
    return (int(rng.integers(len(scene.things))),)


def _near(colours: set[str]) -> list[str]:
    """Return the true colour and the one after it, so that both answers are as frequent."""
    (true,) = colours
    known = list(COLOUR_FACTS)
    return [true, known[(known.index(true) + 1) % len(known)]]


def _yes(true: bool) -> str:
    return "yes" if true else "no"


def _phrase(scene: Scene, rng: np.random.Generator, fillers: Sequence[str]) -> str:
    """Return a description of things by looks, or by place; a place may be wrong."""
    looks, things = pick(rng, list(looks_in(scene)))
    filler = pick(rng, fillers)
    if rng.random() < PLACE_SHARE:
        if rng.random() < 0.5:
            return f"the {pick(rng, list(EXTREMES))} {looks.noun(filler)}"
        beside, _ = pick(rng, list(looks_in(scene)))
        relation = pick(rng, list(RELATIONS))
        return f"the {looks.noun(filler)} {relation} the {beside.noun(filler)}"
    if len(things) == 1:
        return f"the {looks.noun(filler)}"
    return f"{pick(rng, ('all', 'the'))} {looks.noun(filler, plural=True)}"


def _fill(wording: str, scene: Scene, rng: np.random.Generator) -> str:
    """Return a wording with everything in braces replaced, each time by another draw."""
    options = {
        "attribute": ATTRIBUTES,
        "colour": COLOURS,
        "size": SIZES,
        "shape": SHAPES,
        "verb": VERBS,
    }
    bare = wording.startswith("{phrase}")
    fillers = FILLERS if bare else (*FILLERS, INSTRUCTION_FILLER)
    text = wording.replace("{phrase}", _phrase(scene, rng, fillers))
    for name, values in options.items():
        while f"{{{name}}}" in text:
            text = text.replace(f"{{{name}}}", pick(rng, list(values)), 1)
    return text


def _segmentation(scene: Scene, rng: np.random.Generator, held_out: bool) -> str:
    if held_out:
        return pick(rng, sample_instructions(scene, rng)).text
    if rng.random() < 0.35:
        facts = [fact for known in SHAPE_FACTS.values() for fact in known]
        facts += [f"has the colour of {thing}" for thing in COLOUR_FACTS.values()]
        return pick(rng, SEGMENT_FACT).replace("{fact}", pick(rng, facts))
    return _fill(pick(rng, SEGMENT), scene, rng)


def _dialogue(scene: Scene, rng: np.random.Generator, held_out: bool) -> str:
    if rng.random() < 0.3:
        return pick(rng, HELD_OUT_TALK) if held_out else sample_talk(rng).text
    if held_out:
        return _fill(pick(rng, HELD_OUT_DIALOGUE), scene, rng)
    if rng.random() < 0.7:
        return _fill(pick(rng, DIALOGUE), scene, rng)
    questions = sample_questions(scene, rng, 8)
    if not questions or rng.random() < 0.1:
        return caption(scene).text
    return pick(rng, questions).text


def _follow_up(scene: Scene, rng: np.random.Generator, held_out: bool) -> str:
    things = sample_marked(scene, rng)
    if held_out:
        number = "one" if len(things) == 1 else "several"
        return _fill(pick(rng, HELD_OUT_FOLLOW_UP[number]), scene, rng)
    if rng.random() < 0.6:
        return _fill(pick(rng, FOLLOW_UP), scene, rng)
    return pick(rng, follow_ups(scene, things)).text
