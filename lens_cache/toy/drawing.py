"""Paint a scene: an RGB image, and for each pixel the thing that it shows."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lens_cache.toy.scene import SIDE, STANDARD, Rules, Scene, Thing, sample_scene

NOTHING = -1
_HUES = {"red": 0, "orange": 27, "yellow": 55, "green": 125, "blue": 220, "purple": 285}
_HUE_JITTER = 5.0
_POINTS = 5  # of a star
_INNER = 0.45  # radius of a star's inner corners, as a share of the outer ones
_ROWS, _COLUMNS = np.mgrid[0:SIDE, 0:SIDE] + 0.5


@dataclass(frozen=True)
class PaintedScene:
    """A painted scene.

    Attributes:
        scene: Its content.
        image: RGB, uint8, shape (SIDE, SIDE, 3).
        owner: Index of the visible thing of each pixel, ``NOTHING`` for background, int8, shape
            (SIDE, SIDE).
    """

    scene: Scene
    image: NDArray[np.uint8]
    owner: NDArray[np.int8]

    def mask(self, *things: int) -> NDArray[np.bool_]:
        """Return the visible pixels of the given things, bool, shape (SIDE, SIDE)."""
        return np.isin(self.owner, things)


def sample_painted_scene(rng: np.random.Generator, rules: Rules = STANDARD) -> PaintedScene:
    """Return a painted scene in which every thing is visible enough (``rules.visible``)."""
    while True:
        painted = paint_scene(sample_scene(rng, rules))
        if _least_visible(painted) >= rules.visible:
            return painted


def paint_scene(scene: Scene) -> PaintedScene:
    """Paint a scene; equal scenes give equal images."""
    rng = np.random.default_rng(scene.seed)
    image = _background(rng)
    owner = np.full((SIDE, SIDE), NOTHING, dtype=np.int8)
    for index, thing in enumerate(scene.things):
        box, inside, u, v = _rasterise(thing)
        paint = _colour(thing, rng) * _texture(thing, u, v, rng)[..., None]
        image[box][inside] = paint[inside]
        owner[box][inside] = index
    image = image + rng.normal(0, 0.02, size=image.shape)
    return PaintedScene(scene, (image.clip(0, 1) * 255).round().astype(np.uint8), owner)


def _least_visible(painted: PaintedScene) -> float:
    shares = []
    for index, thing in enumerate(painted.scene.things):
        _, inside, _, _ = _rasterise(thing)
        shares.append(np.count_nonzero(painted.owner == index) / np.count_nonzero(inside))
    return min(shares)


def _rasterise(
    thing: Thing,
) -> tuple[tuple[slice, slice], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Rasterise a thing inside its bounding box.

    Returns:
        The box (rows, columns), the covered pixels of the box (bool), and the coordinates u and v
        of its pixels in the frame of the thing, in which its radius is 1.
    """
    left, top = (int(max(0, c - thing.radius - 1)) for c in (thing.x, thing.y))
    right, bottom = (int(min(SIDE, c + thing.radius + 2)) for c in (thing.x, thing.y))
    box = (slice(top, bottom), slice(left, right))
    x, y = _COLUMNS[box] - thing.x, _ROWS[box] - thing.y
    cosine, sine = np.cos(thing.angle) / thing.radius, np.sin(thing.angle) / thing.radius
    u, v = cosine * x + sine * y, cosine * y - sine * x
    return box, _covers(thing.shape, u, v), u, v


def _covers(shape: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points are inside a shape of radius 1; v points down."""
    distance = np.hypot(u, v)
    inside: NDArray[np.bool_]
    if shape == "circle":
        inside = distance <= 1
    elif shape == "ring":
        inside = (distance <= 1) & (distance >= 0.55)
    elif shape == "square":
        inside = np.maximum(abs(u), abs(v)) <= 0.84
    elif shape == "triangle":
        inside = (v <= 0.62) & (np.sqrt(3) * abs(u) - v <= 1.08)
    else:
        # A star: between two tips, its edge is two straight lines that meet at an inner corner.
        half = np.pi / _POINTS
        angle = abs((np.arctan2(u, -v) + half) % (2 * half) - half)
        corner = np.array([np.cos(half), np.sin(half)]) * _INNER
        along, across = distance * np.cos(angle), distance * np.sin(angle)
        inside = along * corner[1] + across * (1 - corner[0]) <= corner[1]
    return inside


def _colour(thing: Thing, rng: np.random.Generator) -> NDArray[np.float64]:
    hue = (_HUES[thing.colour] + rng.uniform(-_HUE_JITTER, _HUE_JITTER)) % 360
    return np.array(colorsys.hsv_to_rgb(hue / 360, rng.uniform(0.8, 1.0), rng.uniform(0.75, 1.0)))


def _texture(
    thing: Thing, u: NDArray[np.float64], v: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the factor of a thing's colour for each pixel."""
    direction = rng.uniform(0, np.pi)
    along = (np.cos(direction) * u + np.sin(direction) * v) * thing.radius
    across = (np.cos(direction) * v - np.sin(direction) * u) * thing.radius
    if thing.texture == "striped":
        return np.where(along % 6 < 3, 1.0, 0.72)
    if thing.texture == "dotted":
        return np.where(np.hypot(along % 6 - 3, across % 6 - 3) < 1.6, 0.68, 1.0)
    if thing.texture == "shaded":
        shade: NDArray[np.float64] = 0.85 + 0.15 * (along / thing.radius).clip(-1, 1)
        return shade
    return np.ones_like(u)


def _background(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a pale or dark gradient with grey strokes and specks, shape (SIDE, SIDE, 3)."""
    first, second = (
        np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(0, 0.25), rng.uniform(0.15, 0.9)))
        for _ in range(2)
    )
    direction = rng.uniform(0, 2 * np.pi)
    slope = np.cos(direction) * _COLUMNS + np.sin(direction) * _ROWS
    slope = (slope - slope.min()) / np.ptp(slope)
    image: NDArray[np.float64] = first + (second - first) * slope[..., None]
    for _ in range(rng.integers(2, 7)):
        x, y = rng.uniform(0, SIDE, size=2)
        angle, length, width = rng.uniform(0, np.pi), rng.uniform(2, 22), rng.uniform(0.7, 1.8)
        along = np.cos(angle) * (_COLUMNS - x) + np.sin(angle) * (_ROWS - y)
        across = np.cos(angle) * (_ROWS - y) - np.sin(angle) * (_COLUMNS - x)
        image[(abs(along) <= length) & (abs(across) <= width)] = rng.uniform(0.1, 0.95)
    return image
