"""Instructions whose target is not in the picture: false premises, to test that a model says no.

They use the sentences of ``instructions``, so that nothing but the picture tells them apart.
"""

from __future__ import annotations

import numpy as np

from lens_cache.toy.instructions import FILLER, Instruction, topic_of, word
from lens_cache.toy.language import ALL_LOOKS, Looks, looks_in, pick, related
from lens_cache.toy.scene import Scene

# Share of the instructions that are wrong about a place, where the scene allows it.
PLACE_SHARE = 0.3


def sample_absent(scene: Scene, rng: np.random.Generator, count: int) -> list[Instruction]:
    """Return up to ``count`` distinct instructions that are true of nothing in a scene.

    Either no thing has the looks, though some thing differs from them in one word only; or things
    have them, but none is at the place.
    """
    found: dict[str, Instruction] = {}
    for _ in range(4 * count):
        if len(found) == count:
            break
        place = rng.random() < PLACE_SHARE
        one = (_misplaced if place else _missing)(scene, rng)
        if one is not None:
            found.setdefault(one.text, one)
    return list(found.values())


def _missing(scene: Scene, rng: np.random.Generator) -> Instruction | None:
    present = dict(looks_in(scene))
    near = [
        looks
        for looks in ALL_LOOKS
        if looks not in present
        and not looks.unseen
        and (looks.attributes == 1 or any(_one_word_apart(looks, other) for other in present))
    ]
    if not near:
        return None
    looks = pick(rng, near)
    plural = rng.random() < 0.3
    phrase = f"all {looks.noun(FILLER, plural=True)}" if plural else f"the {looks.noun(FILLER)}"
    return word("plural" if plural else "referring", phrase, topic_of(looks), (), rng)


def _misplaced(scene: Scene, rng: np.random.Generator) -> Instruction | None:
    known = [pair for pair in looks_in(scene) if pair[0].attributes < 3]
    anchors = [(looks, things[0]) for looks, things in known if len(things) == 1]
    # All things with the looks are clearly on the other side, so that it is no matter of opinion.
    phrases = [
        f"the {wanted.noun(FILLER)} {relation} the {anchor.noun(FILLER)}"
        for anchor, place in anchors
        for relation, opposite in _OPPOSITE.items()
        for wanted, things in known
        if set(things) <= set(related(scene, place, opposite))
    ]
    return word("referring", pick(rng, phrases), "relation", (), rng) if phrases else None


_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def _one_word_apart(one: Looks, other: Looks) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("size", "colour", "shape")]
    different = [pair for pair in pairs if pair[0] != pair[1]]
    return len(different) == 1 and None not in different[0]
