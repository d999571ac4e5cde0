"""What a phrase about a scene of shapes means, read word by word without the package's language."""

import re

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
SIZES = {"small", "large"}
COLOURS = {"red", "orange", "yellow", "green", "blue", "purple"}
SHAPES = {"circle", "square", "triangle", "star", "ring"}
# Distances in pixels from which on one thing is clearly beside another, or outermost.
BESIDE, OUTERMOST = 12, 6
SIDES = {
    "left of": lambda thing, place: place.x - thing.x,
    "right of": lambda thing, place: thing.x - place.x,
    "above": lambda thing, place: place.y - thing.y,
    "below": lambda thing, place: thing.y - place.y,
}
OUTER = {
    "leftmost": lambda thing: -thing.x,
    "rightmost": lambda thing: thing.x,
    "topmost": lambda thing: -thing.y,
    "lowest": lambda thing: thing.y,
}
FACTS = {
    # as instructions say it
    "rolls down a hill": "circle",
    "has no corners at all": "circle",
    "has exactly four corners": "square",
    "could be a box": "square",
    "has exactly three corners": "triangle",
    "could be a roof": "triangle",
    "has exactly five points": "star",
    "glows in the night sky": "star",
    "could be worn around a finger": "ring",
    "has a hole in it": "ring",
    "has the same colour as blood": "red",
    "has the same colour as carrots": "orange",
    "has the same colour as lemons": "yellow",
    "has the same colour as grass": "green",
    "has the same colour as the sky": "blue",
    "has the same colour as plums": "purple",
    # as questions say it
    "rolls away": "circle",
    "has no corners": "circle",
    "has four corners": "square",
    "looks like a box": "square",
    "has three corners": "triangle",
    "looks like a roof": "triangle",
    "has five points": "star",
    "glows at night": "star",
    "has a hole": "ring",
    "fits around a finger": "ring",
    "has the colour of blood": "red",
    "has the colour of carrots": "orange",
    "has the colour of lemons": "yellow",
    "has the colour of grass": "green",
    "has the colour of the sky": "blue",
    "has the colour of plums": "purple",
}
TOPICS = ("shape", "colour", "looks", "relation", "extreme", "fact")


def words_of(thing):
    """Return the three words that describe a thing."""
    return {thing.size, thing.colour, thing.shape}


def named(noun, scene):
    """Return the things that a noun such as "large red stars" fits; every word must be known."""
    wanted = [word.removesuffix("s") for word in noun.split()]
    wanted = [word for word in wanted if word not in {"thing", "object"}]
    assert set(wanted) <= SIZES | COLOURS | SHAPES, noun
    return {i for i, thing in enumerate(scene.things) if set(wanted) <= words_of(thing)}


def only(things):
    """Return the one thing that is meant; a phrase that leaves it open is wrong."""
    assert len(things) == 1, things
    return next(iter(things))


def read(phrase, scene):
    """Return topic and things of a phrase such as "the star left of the ring" or "all stars"."""
    if match := re.fullmatch(r"(?:the object that|what) (.*)", phrase):
        fact = FACTS[match[1]]
        return "fact", {i for i, thing in enumerate(scene.things) if fact in words_of(thing)}
    if match := re.fullmatch(rf"the (.*) ({'|'.join(SIDES)}) the (.*)", phrase):
        anchor = scene.things[only(named(match[3], scene))]
        beside = SIDES[match[2]]
        meant = {i for i in named(match[1], scene) if beside(scene.things[i], anchor) >= BESIDE}
        return "relation", meant
    if match := re.fullmatch(rf"the ({'|'.join(OUTER)}) (.*)", phrase):
        outer = OUTER[match[1]]
        ordered = sorted(named(match[2], scene), key=lambda i: outer(scene.things[i]))
        first, second = (outer(scene.things[i]) for i in (ordered[-1], ordered[-2]))
        assert first - second >= OUTERMOST, phrase
        return "extreme", {ordered[-1]}
    match = re.fullmatch(r"(?:the|all) (.*)", phrase)
    assert match, phrase
    said = [word.removesuffix("s") for word in match[1].split()]
    said = [word for word in said if word not in {"thing", "object"}]
    topic = "looks"
    if len(said) == 1 and said[0] not in SIZES:
        topic = "colour" if said[0] in COLOURS else "shape"
    return topic, named(match[1], scene)


def described(thing):
    """Return the full description of a thing."""
    return f"a {thing.size} {thing.colour} {thing.shape}"


def listed(scene, things):
    """Return descriptions from left to right, with commas and one "and"."""
    ordered = sorted(things, key=lambda i: scene.things[i].x)
    *first, last = [described(scene.things[i]) for i in ordered]
    return f"{', '.join(first)} and {last}" if first else last


def template(text):
    """Return a text with every description replaced by one sign, whatever it says and how."""
    known = "|".join(sorted(SIZES | COLOURS | SHAPES | {"thing", "object"}))
    return re.sub(rf"\b(?:{known})s?(?: (?:{known})s?)*\b", "*", text)
