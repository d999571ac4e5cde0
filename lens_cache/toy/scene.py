"""The content of an image: coloured shapes of two sizes, placed by a seeded generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 128
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "star", "ring")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted", "shaded")
# Least and greatest radius of the circle around a shape, in pixels.
RADII = {"small": (10.0, 12.5), "large": (17.5, 21.0)}
# Pairs that are drawn only in the hard split: one for each shape. Every colour and shape occurs in
# other pairs.
UNSEEN_PAIRS = frozenset(
    {
        ("purple", "circle"),
        ("orange", "square"),
        ("yellow", "triangle"),
        ("blue", "star"),
        ("green", "ring"),
    }
)
_PLACEMENTS = 200


@dataclass(frozen=True)
class Thing:
    """A shape in an image.

    Attributes:
        size: One of ``SIZES``.
        colour: One of ``COLOURS``.
        shape: One of ``SHAPES``.
        texture: One of ``TEXTURES``; varies the appearance and is never mentioned.
        x: Centre in pixels from the left edge.
        y: Centre in pixels from the upper edge.
        radius: Radius of the circle around it, in pixels.
        angle: Rotation in radians.
    """

    size: str
    colour: str
    shape: str
    texture: str
    x: float
    y: float
    radius: float
    angle: float


@dataclass(frozen=True)
class Scene:
    """The content of an image.

    Attributes:
        things: In drawing order: a later one covers earlier ones.
        seed: Seed of background, clutter and noise.
    """

    things: tuple[Thing, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules by which the scenes of a split are sampled.

    Attributes:
        things: Least and greatest number of things in an image.
        kinds: Least and greatest number of distinct colours, and also of distinct shapes, in an
            image; with few of them, one word is often not enough to select a thing.
        spacing: Least distance of two centres, as a share of the sum of their radii.
        visible: Least visible share of a thing.
        unseen: If true, at least one thing is of ``UNSEEN_PAIRS``; otherwise none is.
    """

    things: tuple[int, int] = (3, 6)
    kinds: tuple[int, int] = (3, 4)
    spacing: float = 0.85
    visible: float = 0.6
    unseen: bool = False


STANDARD = Rules()
HARD = Rules(things=(6, 8), kinds=(4, 5), spacing=0.62, visible=0.4, unseen=True)


def sample_scene(rng: np.random.Generator, rules: Rules = STANDARD) -> Scene:
    """Return a random scene; ``drawing.sample_painted_scene`` checks ``rules.visible``."""
    while True:
        things = _place(rng, rules)
        if things is not None:
            return Scene(things=things, seed=int(rng.integers(2**31)))


def _place(rng: np.random.Generator, rules: Rules) -> tuple[Thing, ...] | None:
    """Place things one after another; returns None if there is no room for one."""
    count = int(rng.integers(rules.things[0], rules.things[1] + 1))
    pairs = _choose_pairs(rng, rules, count)
    things: list[Thing] = []
    for colour, shape in pairs:
        size = str(rng.choice(SIZES))
        radius = float(rng.uniform(*RADII[size]))
        for _ in range(_PLACEMENTS):
            x, y = rng.uniform(radius + 1, SIDE - radius - 1, size=2)
            if all(
                np.hypot(x - other.x, y - other.y) >= rules.spacing * (radius + other.radius)
                for other in things
            ):
                break
        else:
            return None
        things.append(
            Thing(
                size=size,
                colour=colour,
                shape=shape,
                texture=str(rng.choice(TEXTURES)),
                x=float(x),
                y=float(y),
                radius=radius,
                angle=float(rng.uniform(-0.3, 0.3)),
            )
        )
    return tuple(things)


def _choose_pairs(rng: np.random.Generator, rules: Rules, count: int) -> list[tuple[str, str]]:
    """Draw the colour and shape of each thing."""
    while True:
        colours = _choose_kinds(rng, rules, COLOURS)
        shapes = _choose_kinds(rng, rules, SHAPES)
        pairs = [(str(rng.choice(colours)), str(rng.choice(shapes))) for _ in range(count)]
        if UNSEEN_PAIRS.isdisjoint(pairs) != rules.unseen:
            return pairs


def _choose_kinds(
    rng: np.random.Generator, rules: Rules, known: tuple[str, ...]
) -> NDArray[np.str_]:
    """Draw the colours, or the shapes, that an image uses."""
    number = rng.integers(rules.kinds[0], rules.kinds[1] + 1)
    return rng.choice(np.array(known), size=number, replace=False)
