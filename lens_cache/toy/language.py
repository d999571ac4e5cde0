"""Describe things by their looks, their place and facts about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np

from lens_cache.toy.scene import COLOURS, SHAPES, SIZES, UNSEEN_PAIRS, Scene, Thing

T = TypeVar("T")
# Something that is known to have each colour.
COLOUR_FACTS = {
    "red": "blood",
    "orange": "carrots",
    "yellow": "lemons",
    "green": "grass",
    "blue": "the sky",
    "purple": "plums",
}
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
# Least distance of two centres along an axis, in pixels, for a relation to be clear.
CLEARLY_APART = 12.0
RELATIONS = {
    "left of": (-1, 0),
    "right of": (1, 0),
    "above": (0, -1),
    "below": (0, 1),
}
EXTREMES = {"leftmost": (-1, 0), "rightmost": (1, 0), "topmost": (0, -1), "lowest": (0, 1)}


@dataclass(frozen=True)
class Looks:
    """A description by looks; attributes that are None are not mentioned."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Return whether a thing has these looks."""
        return (
            self.size in (None, thing.size)
            and self.colour in (None, thing.colour)
            and self.shape in (None, thing.shape)
        )

    def noun(self, filler: str, *, plural: bool = False) -> str:
        """Return e.g. "small red star"; ``filler`` replaces a missing shape."""
        words = [self.size, self.colour, (self.shape or filler) + ("s" if plural else "")]
        return " ".join(word for word in words if word)

    @property
    def unseen(self) -> bool:
        """Whether this pair of colour and shape is only in the hard split."""
        return (self.colour, self.shape) in UNSEEN_PAIRS

    @property
    def attributes(self) -> int:
        """Number of mentioned attributes."""
        return sum(value is not None for value in (self.size, self.colour, self.shape))


def look_of(thing: Thing) -> Looks:
    """Return the full description of a thing."""
    return Looks(thing.size, thing.colour, thing.shape)


ALL_LOOKS = tuple(
    Looks(*values)
    for values in product((None, *SIZES), (None, *COLOURS), (None, *SHAPES))
    if any(values)
)


def matching(scene: Scene, looks: Looks) -> tuple[int, ...]:
    """Return the indices of the things with these looks."""
    return tuple(index for index, thing in enumerate(scene.things) if looks.fits(thing))


def looks_in(scene: Scene) -> Iterator[tuple[Looks, tuple[int, ...]]]:
    """Yield every description that fits a thing of a scene, with the indices of those things."""
    for looks in ALL_LOOKS:
        found = matching(scene, looks)
        if found:
            yield looks, found


def related(scene: Scene, anchor: int, relation: str) -> tuple[int, ...]:
    """Return the things that are clearly on one side of the thing ``anchor``."""
    across, down = RELATIONS[relation]
    place = scene.things[anchor]
    return tuple(
        index
        for index, thing in enumerate(scene.things)
        if across * (thing.x - place.x) + down * (thing.y - place.y) >= CLEARLY_APART
    )


def extreme(scene: Scene, among: Iterable[int], which: str) -> int | None:
    """Return the outermost of some things; None if it is not clear, or there is only one thing."""
    across, down = EXTREMES[which]
    places = sorted(
        ((across * scene.things[i].x + down * scene.things[i].y, i) for i in among), reverse=True
    )
    if len(places) < 2 or places[0][0] - places[1][0] < CLEARLY_APART / 2:
        return None
    return places[0][1]


def left_to_right(scene: Scene, things: Iterable[int]) -> list[int]:
    """Return things sorted from left to right."""
    return sorted(things, key=lambda index: scene.things[index].x)


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Return one of the options, all with equal probability."""
    return options[int(rng.integers(len(options)))]


def enumeration(phrases: list[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return " and ".join(part for part in (", ".join(phrases[:-1]), phrases[-1]) if part)
