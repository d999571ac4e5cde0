"""Instructions for LENS, each with its target things.

The four kinds follow the paper's data: ``class`` ("the ring"), ``referring`` ("the small red star
left of the blue square"), ``plural`` ("all green things") and ``reasoning`` ("what could roll").
None of these wordings is in the training data of the multimodal LLM (``questions``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lens_cache.datasets.base import Kind, Length
from lens_cache.toy.language import (
    COLOUR_FACTS,
    EXTREMES,
    RELATIONS,
    Looks,
    extreme,
    looks_in,
    matching,
    pick,
    related,
)
from lens_cache.toy.scene import Scene

T = TypeVar("T")
FILLER = "thing"
SHAPE_FACTS: dict[str, tuple[str, ...]] = {
    "circle": ("rolls down a hill", "has no corners at all"),
    "square": ("has exactly four corners", "could be a box"),
    "triangle": ("has exactly three corners", "could be a roof"),
    "star": ("has exactly five points", "glows in the night sky"),
    "ring": ("has a hole in it", "could be worn around a finger"),
}
# Templates that turn a phrase into a sentence; a share of ``LONG_SHARE`` of the instructions.
REQUESTS: tuple[str, ...] = (
    "Please segment {phrase} in this picture.",
    "Can you mark {phrase} for me?",
    "Show me where to find {phrase} here.",
)
REASONING_REQUESTS: tuple[str, ...] = (
    "Look at the picture and mark what {fact}.",
    "Which of these {fact}?",
)
LONG_SHARE = 0.25


@dataclass(frozen=True)
class Instruction:
    """An instruction with its target.

    Attributes:
        text: The instruction.
        kind: One of the four kinds.
        length: ``long`` if it is a sentence.
        topic: The property that selects the target: ``shape``, ``colour`` (alone), ``looks``
            (several attributes, or size), ``relation``, ``extreme`` or ``fact``.
        things: Indices of the target things; empty if there is none.
    """

    text: str
    kind: Kind
    length: Length
    topic: str
    things: tuple[int, ...]


@dataclass(frozen=True)
class _Request:
    """A noun phrase or a fact, and its target things."""

    phrase: str
    topic: str
    things: tuple[int, ...]


def sample_instructions(scene: Scene, rng: np.random.Generator) -> list[Instruction]:
    """Return about ten instructions: up to two or three of each kind, if the scene allows them."""
    found = dict(looks_in(scene))
    chosen: list[tuple[Kind, _Request]] = [
        *(("class", request) for request in _some(rng, list(_class(found)), 2)),
        *(("referring", request) for request in _some(rng, list(_by_looks(found)), 2)),
        *(("referring", request) for request in _some(rng, list(_by_place(scene, found)), 1)),
        *(("plural", request) for request in _some(rng, list(_plural(found)), 2)),
        *(("reasoning", request) for request in _some(rng, list(_reasoning(scene)), 2)),
    ]
    return [
        word(kind, request.phrase, request.topic, request.things, rng) for kind, request in chosen
    ]


def topic_of(looks: Looks) -> str:
    """Return the topic of a description by looks."""
    if looks.attributes == 1 and looks.size is None:
        return "colour" if looks.colour else "shape"
    return "looks"


def _class(found: dict[Looks, tuple[int, ...]]) -> Iterator[_Request]:
    for looks, things in found.items():
        if topic_of(looks) == "shape":
            noun = looks.noun(FILLER, plural=len(things) > 1)
            yield _Request(f"the {noun}", "shape", things)


def _by_looks(found: dict[Looks, tuple[int, ...]]) -> Iterator[_Request]:
    """Yield looks that fit exactly one thing; colour alone is as frequent as all other looks."""
    single = [(looks, things) for looks, things in found.items() if len(things) == 1]
    colours = [pair for pair in single if topic_of(pair[0]) == "colour"]
    others = [pair for pair in single if topic_of(pair[0]) == "looks"]
    for looks, things in colours * max(1, len(others) // max(1, len(colours))) + others:
        yield _Request(f"the {looks.noun(FILLER)}", topic_of(looks), things)


def _by_place(scene: Scene, found: dict[Looks, tuple[int, ...]]) -> Iterator[_Request]:
    """Yield phrases in which the place selects one of several things with the same looks."""
    groups = {
        looks: things for looks, things in found.items() if looks.attributes < 3 and len(things) > 1
    }
    groups[Looks()] = tuple(range(len(scene.things)))
    anchors = [
        (looks, things[0])
        for looks, things in found.items()
        if len(things) == 1 and looks.attributes < 3
    ]
    for looks, things in groups.items():
        for which in EXTREMES:
            outermost = extreme(scene, things, which)
            if outermost is not None:
                yield _Request(f"the {which} {looks.noun(FILLER)}", "extreme", (outermost,))
    for anchor_looks, anchor in anchors:
        for relation in RELATIONS:
            beside = set(related(scene, anchor, relation))
            for looks, things in groups.items():
                meant = beside.intersection(things)
                if len(meant) == 1:
                    phrase = f"the {looks.noun(FILLER)} {relation} the {anchor_looks.noun(FILLER)}"
                    yield _Request(phrase, "relation", tuple(meant))


def _plural(found: dict[Looks, tuple[int, ...]]) -> Iterator[_Request]:
    several = [(looks, things) for looks, things in found.items() if len(things) > 1]
    colours = [pair for pair in several if topic_of(pair[0]) == "colour"]
    others = [pair for pair in several if topic_of(pair[0]) == "looks"]
    for looks, things in colours * max(1, len(others) // max(1, len(colours))) + others:
        yield _Request(f"all {looks.noun(FILLER, plural=True)}", topic_of(looks), things)


def _reasoning(scene: Scene) -> Iterator[_Request]:
    """Yield facts that are true of exactly one thing."""
    known = [(Looks(shape=shape), facts) for shape, facts in SHAPE_FACTS.items()]
    known += [
        (Looks(colour=colour), (f"has the same colour as {like}",))
        for colour, like in COLOUR_FACTS.items()
    ]
    for looks, facts in known:
        things = matching(scene, looks)
        if len(things) == 1:
            for fact in facts:
                yield _Request(fact, "fact", things)


def word(
    kind: Kind, phrase: str, topic: str, things: tuple[int, ...], rng: np.random.Generator
) -> Instruction:
    """Put a noun phrase, or a fact for ``reasoning``, into words; a share of them is a sentence."""
    length: Length = "long" if rng.random() < LONG_SHARE else "short"
    if kind == "reasoning":
        short, requests = f"what {phrase}", REASONING_REQUESTS
    else:
        short, requests = phrase, REQUESTS
    text = short
    if length == "long":
        text = pick(rng, requests).format(phrase=phrase, fact=phrase)
    return Instruction(text, kind, length, topic, things)


def _some(rng: np.random.Generator, options: Sequence[T], count: int) -> list[T]:
    """Return up to ``count`` random options without repetition."""
    distinct = list(dict.fromkeys(options)) if count > 1 else list(options)
    chosen = rng.permutation(len(distinct))[:count]
    return [distinct[index] for index in chosen]
