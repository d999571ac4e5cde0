"""The world of shapes: what stands in a picture, and that masks are exact."""

import colorsys
import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.toy.drawing import NOTHING, paint_scene, sample_painted_scene
from lens_cache.toy.scene import (
    COLOURS,
    HARD,
    SHAPES,
    SIDE,
    SIZES,
    STANDARD,
    TEXTURES,
    UNSEEN_PAIRS,
    Scene,
    Thing,
    sample_scene,
)

SEEDS = st.integers(0, 2**32 - 1)
RULES = st.sampled_from([STANDARD, HARD])
HUES = {"red": 0, "orange": 27, "yellow": 55, "green": 125, "blue": 220, "purple": 285}
CIRCLE = Thing("large", "red", "circle", "plain", 60.0, 60.0, 20.0, 0.0)


def generator(seed):
    return np.random.default_rng(seed)


def corners(shape):
    """Return the corners of a shape of radius 1 that is no circle; y points down."""
    if shape == "square":
        return [(-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)]
    if shape == "triangle":
        return [(0, -1.08), (1.7 / math.sqrt(3), 0.62), (-1.7 / math.sqrt(3), 0.62)]
    return [
        (reach * math.sin(turn * math.pi / 5), -reach * math.cos(turn * math.pi / 5))
        for turn in range(10)
        for reach in [0.45 if turn % 2 else 1.0]
    ]


def crosses_oddly(x, y, polygon):
    """Tell whether a ray from a point crosses a polygon's edges an odd number of times."""
    inside = False
    for (x0, y0), (x1, y1) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) * (x1 - x0) / (y1 - y0):
            inside = not inside
    return inside


def shows(thing, x, y):
    """Tell whether a thing covers a point of the picture."""
    if not (int(thing.x - thing.radius - 1) <= x < int(thing.x + thing.radius + 2)):
        return False  # the tips of a large triangle are cut off where its box ends
    if not (int(thing.y - thing.radius - 1) <= y < int(thing.y + thing.radius + 2)):
        return False
    distance = math.hypot(x - thing.x, y - thing.y) / thing.radius
    if thing.shape in ("circle", "ring"):
        return (0.55 if thing.shape == "ring" else 0) <= distance <= 1
    cos, sin = math.cos(thing.angle) * thing.radius, math.sin(thing.angle) * thing.radius
    polygon = [
        (thing.x + cos * u - sin * v, thing.y + sin * u + cos * v) for u, v in corners(thing.shape)
    ]
    return crosses_oddly(x, y, polygon)


def owner_of(scene, x, y):
    """Return which thing a point shows: the last that covers it."""
    for index in reversed(range(len(scene.things))):
        if shows(scene.things[index], x, y):
            return index
    return NOTHING


@given(SEEDS, RULES)
@settings(max_examples=10)
def test_a_seed_gives_one_picture(seed, rules):
    first, again = (sample_painted_scene(generator(seed), rules) for _ in range(2))
    assert first.scene == again.scene
    assert first.image.tobytes() == again.image.tobytes()
    assert first.owner.tobytes() == again.owner.tobytes()
    drawn = paint_scene(first.scene)
    np.testing.assert_array_equal(drawn.image, first.image)
    assert not np.array_equal(sample_painted_scene(generator([seed, 1]), rules).image, first.image)


@given(SEEDS, RULES)
@settings(max_examples=8)
def test_every_pixel_belongs_to_what_it_shows(seed, rules):
    picture = sample_painted_scene(generator(seed), rules)
    expected = [
        [owner_of(picture.scene, x + 0.5, y + 0.5) for x in range(SIDE)] for y in range(SIDE)
    ]
    np.testing.assert_array_equal(picture.owner, expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("angle", [0.0, 0.3])
def test_every_shape_is_where_it_is_said_to_be(shape, angle):
    thing = dataclasses.replace(CIRCLE, shape=shape, x=40.31, y=80.73, angle=angle)
    mask = paint_scene(Scene((thing,), seed=0)).mask(0)
    expected = [[shows(thing, x + 0.5, y + 0.5) for x in range(SIDE)] for y in range(SIDE)]
    np.testing.assert_array_equal(mask, expected)


def test_a_later_thing_hides_an_earlier_one():
    below, above = CIRCLE, dataclasses.replace(CIRCLE, colour="blue", x=75.0)
    picture = paint_scene(Scene((below, above), seed=0))
    alone = paint_scene(Scene((above,), seed=0)).mask(0)
    np.testing.assert_array_equal(picture.mask(1), alone)
    assert not (picture.mask(0) & alone).any()
    whole = paint_scene(Scene((below,), seed=0)).mask(0)
    np.testing.assert_array_equal(picture.mask(0, 1), whole | alone)


@given(SEEDS, RULES)
@settings(max_examples=20)
def test_a_thing_has_the_colour_that_is_said(seed, rules):
    picture = sample_painted_scene(generator(seed), rules)
    for index, thing in enumerate(picture.scene.things):
        mean = picture.image[picture.mask(index)].mean(axis=0) / 255
        hue = 360 * colorsys.rgb_to_hsv(*mean)[0]
        nearest = min(HUES, key=lambda name: abs((hue - HUES[name] + 180) % 360 - 180))
        assert nearest == thing.colour


@given(SEEDS, RULES)
@settings(max_examples=20)
def test_enough_of_everything_is_visible(seed, rules):
    picture = sample_painted_scene(generator(seed), rules)
    for index, thing in enumerate(picture.scene.things):
        whole = paint_scene(Scene((thing,), seed=0)).mask(0).sum()
        assert picture.mask(index).sum() >= rules.visible * whole


@given(SEEDS, RULES)
def test_scenes_keep_the_rules(seed, rules):
    things = sample_scene(generator(seed), rules).things
    assert rules.things[0] <= len(things) <= rules.things[1]
    for values in ({t.colour for t in things}, {t.shape for t in things}):
        assert len(values) <= rules.kinds[1]
    for thing in things:
        assert (thing.radius >= 17.5) == (thing.size == "large")
        assert thing.radius < min(thing.x, thing.y, SIDE - thing.x, SIDE - thing.y)
    assert bool({(t.colour, t.shape) for t in things} & UNSEEN_PAIRS) == (rules is HARD)


def test_hard_scenes_are_more_crowded():
    assert STANDARD.things[1] <= HARD.things[0]
    assert HARD.visible < STANDARD.visible


def test_the_world_is_as_rich_as_it_says():
    things = [t for seed in range(150) for t in sample_scene(generator(seed)).things]
    assert (len(COLOURS), len(SHAPES), len(SIZES)) == (6, 5, 2)
    pairs = {(c, s) for c in COLOURS for s in SHAPES} - UNSEEN_PAIRS
    assert {(t.colour, t.shape) for t in things} == pairs
    assert {t.size for t in things} == set(SIZES)
    assert {t.texture for t in things} == set(TEXTURES)


def test_an_unseen_pair_is_of_a_known_colour_and_a_known_shape():
    assert {shape for _, shape in UNSEEN_PAIRS} == set(SHAPES)
    for colour, shape in UNSEEN_PAIRS:
        assert {(colour, other) for other in SHAPES} - UNSEEN_PAIRS
        assert {(other, shape) for other in COLOURS} - UNSEEN_PAIRS
