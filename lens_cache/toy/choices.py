"""Questions about a scene with options to choose from, and questions for yes or no."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lens_cache.toy.language import NUMBERS
from lens_cache.toy.questions import sample_questions
from lens_cache.toy.scene import COLOURS, SHAPES, Scene

NUM_OPTIONS = 4
YES_NO = ("yes", "no")
# Answers that are plausible instead of each other.
ALTERNATIVES: tuple[tuple[str, ...], ...] = (tuple(COLOURS), tuple(SHAPES), NUMBERS[:6])


@dataclass(frozen=True)
class Choice:
    """A question with options.

    Attributes:
        type: Type of the question, see ``questions``.
        text: The question.
        options: ``NUM_OPTIONS`` different options; for a question for yes or no, ``YES_NO``.
        answer: Index of the right option.
    """

    type: str
    text: str
    options: tuple[str, ...]
    answer: int


def sample_choices(scene: Scene, rng: np.random.Generator, count: int) -> list[Choice]:
    """Return up to ``count`` questions with options; the right option has any place."""
    found = []
    for question in sample_questions(scene, rng, 4 * count):
        for known in ALTERNATIVES:
            if question.answer in known:
                others = [other for other in known if other != question.answer]
                options = [question.answer, *rng.choice(others, NUM_OPTIONS - 1, replace=False)]
                order = rng.permutation(NUM_OPTIONS)
                texts = tuple(str(options[index]) for index in order)
                found.append(
                    Choice(question.type, question.text, texts, texts.index(question.answer))
                )
    return found[:count]


def sample_yes_no(scene: Scene, rng: np.random.Generator, count: int) -> list[Choice]:
    """Return up to ``count`` questions for yes or no."""
    return [
        Choice(question.type, question.text, YES_NO, YES_NO.index(question.answer))
        for question in sample_questions(scene, rng, 16 * count)
        if question.answer in YES_NO
    ][:count]
