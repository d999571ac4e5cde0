"""Stage 4: the language model learns to route requests, to talk, to choose, and to follow up.

It continues from stage 3. Everything on which the states at ``TAPPED_LAYER`` depend is frozen, so
that the features of LENS do not change. A follow-up is asked about the image beside itself with
one thing or several in a spotlight, as the agent shows them (Algorithm S1).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lens_cache.agent.routing import route_question
from lens_cache.benchmarks.prompts import ANSWER_YES_NO, LETTERS, choice_prompt
from lens_cache.images.geometry import image_to_square
from lens_cache.images.overlay import side_by_side, spotlight
from lens_cache.toy.choices import Choice, sample_choices, sample_yes_no
from lens_cache.toy.questions import Question, caption
from lens_cache.toy.requests import sample_follow_ups, sample_marked, sample_request, sample_talk
from lens_cache.toy.scene import SIDE, Scene
from lens_cache.toy.trained_models import SHAPES_LLAVA
from pipelines.pretraining.llava import Asked, Lesson, LlavaStage, answers_right, ask, pack
from pipelines.pretraining.scenes import Scenes

TAPPED_LAYER = 2
# Share of the images of a batch that are shown with something in a spotlight.
FOLLOW_UP_SHARE = 0.3
# Shares of the other images with a request to route, a caption, and small talk.
ROUTE_SHARE = 0.6
CAPTION_SHARE = 0.3
TALK_SHARE = 0.3
# Share of the images without a request that have questions with options.
CHOICE_SHARE = 1.0
FOLLOW_UPS = 8
CHOICES = 2
# Share of the routed requests that are questions with options or for yes or no.
ROUTED_CHOICE_SHARE = 0.1
# Relative weights of an answer; 1 for all others. Few requests are routed, since their prompt is
# long.
TYPE_WEIGHTS = {"route": 8.0, "follow-up": 2.0, "choice": 2.0}
NUM_MEASURED = 192


class ChatStage(LlavaStage):
    """Trains the layers after ``TAPPED_LAYER`` and the LM head."""

    name = "chat"

    def __init__(
        self, model: Any, tokenizer: Any, scenes: Path, folder: Path, device: torch.device
    ) -> None:
        super().__init__(model, tokenizer, scenes, folder, device)
        language = model.model.language_model
        model.model.multi_modal_projector.requires_grad_(False)
        language.embed_tokens.requires_grad_(False)
        language.layers[:TAPPED_LAYER].requires_grad_(False)

    def loss(self, rng: np.random.Generator, count: int, done: float) -> Tensor:
        """See ``Stage``."""
        chosen = np.sort(rng.choice(len(self._train), size=count, replace=False))
        squares, rows = self._lesson(self._train, chosen, rng)
        lesson = pack(rows)
        logits = self._predict(squares, lesson)
        tokens = lesson.ids[lesson.answer].to(self._device)
        losses = F.cross_entropy(logits, tokens, reduction="none")
        weights = token_weights(lesson).to(self._device)
        return (losses * weights).sum() / weights.sum()

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the share of answers that are right in every token, in total and by type.

        Each token is predicted after the true tokens before it (teacher forcing).
        """
        rng = np.random.default_rng(0)
        right: dict[str, list[bool]] = defaultdict(list)
        for start in range(0, min(NUM_MEASURED, len(self._val)), 24):
            chosen = np.arange(start, min(start + 24, len(self._val)))
            squares, rows = self._lesson(self._val, chosen, rng)
            lesson = pack(rows)
            for kind, values in answers_right(self._predict(squares, lesson).cpu(), lesson).items():
                right[kind] += values
        return {kind: float(np.mean(right[kind])) for kind in sorted(right)}

    def _lesson(
        self, scenes: Scenes, chosen: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], list[list[Asked]]]:
        """Return the images, shape (B, side, side, 3), and the questions of each."""
        squares = np.array(scenes.squares[chosen])
        rows = []
        for place, index in enumerate(chosen):
            scene = scenes.scenes[index]
            if rng.random() < FOLLOW_UP_SHARE:
                things = sample_marked(scene, rng)
                squares[place] = marked_square(scenes.images[index], scenes.owner[index], things)
                questions = sample_follow_ups(scene, things, rng, FOLLOW_UPS)
                rows.append(ask(scene, self._questions, rng, questions, only=True))
                continue
            first = [caption(scene)] if rng.random() < CAPTION_SHARE else []
            if rng.random() < ROUTE_SHARE:
                first.append(_routed(scene, rng))
            elif rng.random() < CHOICE_SHARE:
                first += _choices(scene, rng)
            if rng.random() < TALK_SHARE:
                first.append(sample_talk(rng))
            rows.append(ask(scene, self._questions, rng, first))
        return squares, rows


def _routed(scene: Scene, rng: np.random.Generator) -> Question:
    """Return a request, with its route as the answer."""
    choices = _choices(scene, rng) if rng.random() < ROUTED_CHOICE_SHARE else []
    if choices:
        return Question("route", route_question(choices[0].text), "dialogue")
    request = sample_request(scene, rng)
    return Question("route", route_question(request.text), request.route)


def _choices(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Return questions with options, as benchmarks ask them, in random order."""
    lettered = [
        Question("choice", choice_prompt(choice.text, options_of(choice)), LETTERS[choice.answer])
        for choice in sample_choices(scene, rng, CHOICES)
    ]
    yes_no = [
        Question("choice", f"{choice.text} {ANSWER_YES_NO}", choice.options[choice.answer])
        for choice in sample_yes_no(scene, rng, 1)
    ]
    known = [*lettered, *yes_no]
    return [known[index] for index in rng.permutation(len(known))]


def options_of(choice: Choice) -> dict[str, str]:
    """Return the options of a question by their letters."""
    return dict(zip(LETTERS, choice.options, strict=False))


def token_weights(lesson: Lesson) -> Tensor:
    """Return the weight of each token of ``lesson.answer``: every answer counts as a whole.

    Otherwise long lists would outweigh everything that is answered in one word.
    """
    weights = torch.zeros(lesson.ids.shape)
    for row, types in enumerate(lesson.types):
        for number, kind in enumerate(types):
            mine = lesson.answer[row] & (lesson.owner[row] == number)
            weights[row, mine] = TYPE_WEIGHTS.get(kind, 1.0) / int(mine.sum())
    return weights[lesson.answer]


def marked_square(
    image: NDArray[np.uint8], owner: NDArray[np.int8], things: Sequence[int]
) -> NDArray[np.uint8]:
    """Return an image beside itself with things in a spotlight, in LLaVA's input size.

    Args:
        image: RGB, shape (SIDE, SIDE, 3).
        owner: Index of the visible thing of each pixel, shape (SIDE, SIDE).
        things: The things that are marked.

    Returns:
        Shape (side, side, 3).
    """
    pixels = np.asarray(image)
    pair = side_by_side(pixels, spotlight(pixels, np.isin(owner, things)))
    side = SHAPES_LLAVA.image_side
    square = Image.fromarray(image_to_square(pair, SIDE))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
