"""The training data of the tiny multimodal LLM: captions, and questions with answers in words.

It contains no mask, box or coordinate, and none of its wordings is used in ``instructions``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from lens_cache.toy.language import (
    ALL_LOOKS,
    COLOUR_FACTS,
    EXTREMES,
    NUMBERS,
    RELATIONS,
    Looks,
    enumeration,
    extreme,
    left_to_right,
    look_of,
    looks_in,
    matching,
    pick,
    related,
)
from lens_cache.toy.scene import Scene

FILLER = "object"
ATTRIBUTES = ("size", "colour", "shape")
# Facts about shapes, in wordings that ``instructions`` does not use.
SHAPE_FACTS: dict[str, tuple[str, ...]] = {
    "circle": ("rolls away", "has no corners"),
    "square": ("has four corners", "looks like a box"),
    "triangle": ("has three corners", "looks like a roof"),
    "star": ("has five points", "glows at night"),
    "ring": ("has a hole", "fits around a finger"),
}
# Relative frequency of each type of question.
WEIGHTS = {
    "attribute": 5.0,
    "describe": 4.0,
    "exist": 1.5,
    "count": 1.5,
    "list": 1.5,
    "relation": 4.0,
    "extreme": 2.0,
    "fact": 3.0,
}


@dataclass(frozen=True)
class Question:
    """A question about an image, with its type and answer."""

    type: str
    text: str
    answer: str


def caption(scene: Scene) -> Question:
    """Return the request for a caption: all things, described from left to right."""
    everything = left_to_right(scene, range(len(scene.things)))
    return Question("caption", "Describe the picture.", _enumerate(scene, everything))


def sample_questions(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """Return up to ``count`` questions of mixed types with distinct texts."""
    found = dict(looks_in(scene))
    single = [(looks, things[0]) for looks, things in found.items() if len(things) == 1]
    names = list(WEIGHTS)
    weights = np.array(list(WEIGHTS.values())) / sum(WEIGHTS.values())
    asked: dict[str, Question] = {}
    for _ in range(4 * count):
        if len(asked) == count:
            break
        kind = names[rng.choice(len(names), p=weights)]
        question = _ask(kind, scene, found, single, rng)
        if question is not None:
            asked.setdefault(question.text, question)
    return list(asked.values())


def _ask(
    kind: str,
    scene: Scene,
    found: dict[Looks, tuple[int, ...]],
    single: list[tuple[Looks, int]],
    rng: np.random.Generator,
) -> Question | None:
    """Return a question of one type; None if the scene does not allow it."""
    if kind == "exist":
        return _exist(found, rng)
    if kind == "count":
        # The answer to a pair that is never drawn would always be zero.
        looks = pick(rng, [one for one in _simple(ALL_LOOKS) if not one.unseen])
        number = NUMBERS[len(matching(scene, looks))]
        return Question(kind, f"How many {looks.noun(FILLER, plural=True)} are there?", number)
    if kind == "list":
        several = [looks for looks in _simple(found) if len(found[looks]) > 1]
        if not several:
            return None
        looks = pick(rng, several)
        answer = _enumerate(scene, left_to_right(scene, found[looks]))
        return Question(kind, f"List the {looks.noun(FILLER, plural=True)}.", answer)
    if kind == "relation":
        return _relation(scene, found, single, rng)
    if kind == "extreme":
        return _extreme(scene, found, rng)
    if kind == "fact":
        return _fact(scene, rng)
    short = [(looks, thing) for looks, thing in single if looks.attributes < 3]
    if not short:
        return None
    looks, thing = pick(rng, short)
    if kind == "describe":
        return Question(kind, f"Describe the {looks.noun(FILLER)}.", _a(scene, thing))
    return _attribute(kind, scene, f"the {looks.noun(FILLER)}", looks, thing, rng)


def _attribute(
    kind: str, scene: Scene, phrase: str, said: Looks, thing: int, rng: np.random.Generator
) -> Question:
    """Ask for an attribute that the phrase does not mention."""
    full = look_of(scene.things[thing])
    unsaid = [name for name in ATTRIBUTES if getattr(said, name) is None]
    wanted = pick(rng, unsaid)
    return Question(kind, f"What {wanted} is {phrase}?", str(getattr(full, wanted)))


def _exist(found: dict[Looks, tuple[int, ...]], rng: np.random.Generator) -> Question:
    """Ask for a description that fits a thing, or for one that differs from it in one word."""
    looks = pick(rng, [looks for looks in found if looks.attributes > 1])
    answer = "yes"
    if rng.random() < 0.5:
        near = [
            other
            for other in ALL_LOOKS
            if other not in found
            and other.attributes == looks.attributes
            and not other.unseen
            and _differences(other, looks) == 1
        ]
        if near:
            looks, answer = pick(rng, near), "no"
    return Question("exist", f"Is there a {looks.noun(FILLER)}?", answer)


def _differences(one: Looks, other: Looks) -> int:
    return sum(getattr(one, name) != getattr(other, name) for name in ATTRIBUTES)


def _relation(
    scene: Scene,
    found: dict[Looks, tuple[int, ...]],
    single: list[tuple[Looks, int]],
    rng: np.random.Generator,
) -> Question | None:
    anchors = [(looks, thing) for looks, thing in single if looks.attributes < 3]
    if not anchors:
        return None
    looks, anchor = pick(rng, anchors)
    relation = pick(rng, list(RELATIONS))
    beside = set(related(scene, anchor, relation))
    # Descriptions that fit one thing on this side of the anchor; preferred are those that fit more
    # than one thing in the whole scene, so that the relation is needed.
    clear = {
        wanted: tuple(beside.intersection(things))
        for wanted, things in found.items()
        if wanted.attributes < 2 and len(beside.intersection(things)) == 1
    }
    if len(beside) == 1:
        clear[Looks()] = tuple(beside)
    if not clear:
        return None
    needed = [wanted for wanted in clear if wanted == Looks() or len(found[wanted]) > 1]
    wanted = pick(rng, needed or list(clear))
    phrase = f"the {wanted.noun(FILLER)} {relation} the {looks.noun(FILLER)}"
    thing = clear[wanted][0]
    if rng.random() < 0.5:
        return Question("relation", f"Describe {phrase}.", _a(scene, thing))
    return _attribute("relation", scene, phrase, wanted, thing, rng)


def _extreme(
    scene: Scene, found: dict[Looks, tuple[int, ...]], rng: np.random.Generator
) -> Question | None:
    which = pick(rng, list(EXTREMES))
    groups = {looks: things for looks, things in found.items() if looks.attributes == 1}
    groups[Looks()] = tuple(range(len(scene.things)))
    clear = {looks: extreme(scene, things, which) for looks, things in groups.items()}
    known = [(looks, thing) for looks, thing in clear.items() if thing is not None]
    if not known:
        return None
    looks, thing = pick(rng, known)
    phrase = f"the {which} {looks.noun(FILLER)}"
    if rng.random() < 0.5:
        return Question("extreme", f"Describe {phrase}.", _a(scene, thing))
    return _attribute("extreme", scene, phrase, looks, thing, rng)


def _fact(scene: Scene, rng: np.random.Generator) -> Question | None:
    options = []
    for said, facts in _facts():
        things = matching(scene, said)
        if len(things) == 1:
            options += [(said, fact, things[0]) for fact in facts]
    if not options:
        return None
    said, fact, thing = pick(rng, options)
    phrase = f"the {FILLER} that {fact}"
    if rng.random() < 0.5:
        return Question("fact", f"Describe {phrase}.", _a(scene, thing))
    return _attribute("fact", scene, phrase, replace(said, shape=None, colour=None), thing, rng)


def _facts() -> Iterator[tuple[Looks, tuple[str, ...]]]:
    for shape, facts in SHAPE_FACTS.items():
        yield Looks(shape=shape), facts
    for colour, thing in COLOUR_FACTS.items():
        yield Looks(colour=colour), (f"has the colour of {thing}",)


def _simple(looks: Iterable[Looks]) -> list[Looks]:
    return [one for one in looks if one.attributes < 3]


def _a(scene: Scene, thing: int) -> str:
    return "a " + look_of(scene.things[thing]).noun(FILLER)


def _enumerate(scene: Scene, things: list[int]) -> str:
    return enumeration([_a(scene, thing) for thing in things])
