"""Stage 3: the language model learns captions and answers on top of the frozen tower.

All questions of an image are packed in one sequence after the image. Each question attends to the
image and itself only, so the image is processed once. The loss covers the tokens of the answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lens_cache.encoders.llava_prompt import LlavaPrompt
from lens_cache.encoders.packed_attention import PACKED_ATTENTION
from lens_cache.features.packing import PADDING, additive_mask, block_mask, position_ids
from lens_cache.toy.questions import Question, caption, sample_questions
from lens_cache.toy.scene import Scene
from lens_cache.toy.small_llava import save_llava
from lens_cache.toy.trained_models import SHAPES_LLAVA, shapes_processor, to_pixels
from pipelines.pretraining.scenes import Scenes
from pipelines.pretraining.tower import patches

FOLDER = "llava"
CAPTION_SHARE = 0.5
TEXT_TOKENS = 224  # per image, approximately
MAX_QUESTIONS = 24
# Share of the training in which images have one or two things.
EASY_UNTIL = 0.1
NUM_MEASURED = 192


# Token ids of a question with its answer, number of ids of the answer, and type.
Asked = tuple[tuple[int, ...], int, str]


class QuestionTokenizer:
    """Converts questions with answers to token ids, as in the prompt of the complete model."""

    def __init__(self, prompt: LlavaPrompt) -> None:
        self.prefix_ids = prompt.prefix_ids
        self._prompt = prompt
        self._tokenizer = prompt.processor.tokenizer
        self._known: dict[str, tuple[int, ...]] = {}

    def ids(self, question: Question) -> tuple[tuple[int, ...], int]:
        """Return the ids of question and answer, and the number of ids of the answer."""
        asked = self._after_image(self._prompt.text(question.text))
        whole = self._after_image(f"{self._prompt.text(question.text)} {question.answer}")
        return (*whole, self._tokenizer.eos_token_id), len(whole) - len(asked) + 1

    def _after_image(self, text: str) -> tuple[int, ...]:
        if text not in self._known:
            ids = self._tokenizer(text, verbose=False)["input_ids"]
            self._known[text] = tuple(ids[ids.index(self._prompt.image_token_id) + 1 :])
        return self._known[text]


@dataclass(frozen=True)
class Lesson:
    """Packed questions on B images.

    Attributes:
        ids: Token ids, int64, shape (B, T), 0 where padded.
        owner: Index of the question of each token, int64, shape (B, T), ``PADDING`` where padded.
        answer: Whether a token is predicted, bool, shape (B, T).
        types: Type of each question, per image.
    """

    ids: Tensor
    owner: Tensor
    answer: Tensor
    types: list[list[str]]


class LlavaStage:
    """Trains projector, language model and LM head of a LLaVA; the tower is frozen."""

    name = "llava"

    def __init__(
        self, model: Any, tokenizer: Any, scenes: Path, folder: Path, device: torch.device
    ) -> None:
        model.model.vision_tower.requires_grad_(False)
        model.model.language_model.config._attn_implementation = PACKED_ATTENTION
        self.model: Any = model.to(device)
        self._device = device
        self._tokenizer = tokenizer
        self._questions = QuestionTokenizer(LlavaPrompt(shapes_processor(tokenizer)))
        self._easy = Scenes(scenes / "easy")
        self._train = Scenes(scenes / "train")
        self._val = Scenes(scenes / "val")
        self._folder = folder / FOLDER

    def loss(self, rng: np.random.Generator, count: int, done: float) -> Tensor:
        """See ``Stage``."""
        scenes = self._easy if done < EASY_UNTIL else self._train
        chosen = np.sort(rng.choice(len(scenes), size=count, replace=False))
        lesson = make_lesson([scenes.scenes[index] for index in chosen], self._questions, rng)
        logits = self._predict(scenes.squares[chosen], lesson)
        return F.cross_entropy(logits, lesson.ids[lesson.answer].to(self._device))

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Return the share of answers that are right in every token, in total and by type.

        Each token is predicted after the true tokens before it (teacher forcing).
        """
        rng = np.random.default_rng(0)
        right: dict[str, list[bool]] = defaultdict(list)
        for start in range(0, min(NUM_MEASURED, len(self._val)), 24):
            chosen = np.arange(start, min(start + 24, len(self._val)))
            lesson = make_lesson([self._val.scenes[i] for i in chosen], self._questions, rng)
            logits = self._predict(self._val.squares[chosen], lesson).cpu()
            for kind, values in answers_right(logits, lesson).items():
                right[kind] += values
        everything = [value for kind in right if kind != "caption" for value in right[kind]]
        return {
            "answers": float(np.mean(everything)),
            **{kind: float(np.mean(right[kind])) for kind in sorted(right)},
        }

    def save(self) -> None:
        """Write a Hugging Face folder."""
        save_llava(self._folder, SHAPES_LLAVA, self.model, self._tokenizer)

    def _predict(self, squares: NDArray[np.uint8], lesson: Lesson) -> Tensor:
        pixels = to_pixels(squares).to(self._device)
        prefix = torch.tensor(self._questions.prefix_ids, device=self._device)
        with torch.autocast(self._device.type, torch.bfloat16):
            with torch.no_grad():
                states = patches(self.model.model.vision_tower, pixels)
            return predict(self.model, prefix, states, lesson).float()


def make_lesson(
    scenes: Sequence[Scene], tokenizer: QuestionTokenizer, rng: np.random.Generator
) -> Lesson:
    """Pack random questions about each scene, up to about ``TEXT_TOKENS`` tokens."""
    rows = []
    for scene in scenes:
        first = [caption(scene)] if rng.random() < CAPTION_SHARE else []
        rows.append(ask(scene, tokenizer, rng, first))
    return pack(rows)


def pack(rows: Sequence[Sequence[Asked]]) -> Lesson:
    """Pack the questions of each image, at least one per image."""
    shape = (len(rows), max(sum(len(ids) for ids, _, _ in row) for row in rows))
    ids = np.zeros(shape, dtype=np.int64)
    owner = np.full(shape, PADDING, dtype=np.int64)
    answer = np.zeros(shape, dtype=bool)
    for b, row in enumerate(rows):
        start = 0
        for number, (tokens, count, _) in enumerate(row):
            end = start + len(tokens)
            ids[b, start:end] = tokens
            owner[b, start:end] = number
            answer[b, end - count : end] = True
            start = end
    return Lesson(
        torch.from_numpy(ids),
        torch.from_numpy(owner),
        torch.from_numpy(answer),
        [[kind for _, _, kind in row] for row in rows],
    )


def ask(
    scene: Scene,
    tokenizer: QuestionTokenizer,
    rng: np.random.Generator,
    first: Iterable[Question],
    *,
    only: bool = False,
) -> list[Asked]:
    """Return questions about a scene, up to about ``TEXT_TOKENS`` tokens.

    Args:
        scene: The scene.
        tokenizer: Makes the ids.
        rng: Draws the questions.
        first: Questions that come first.
        only: Whether to ask no others.
    """
    asked = [*first, *([] if only else sample_questions(scene, rng, MAX_QUESTIONS))]
    row: list[Asked] = []
    used = 0
    for question in asked:
        ids, count = tokenizer.ids(question)
        if row and used + len(ids) > TEXT_TOKENS:
            break
        row.append((ids, count, question.type))
        used += len(ids)
    return row


def predict(model: Any, prefix: Tensor, states: Tensor, lesson: Lesson) -> Tensor:
    """Return the logits of every answer token.

    Args:
        model: A ``LlavaForConditionalGeneration``.
        prefix: Token ids before the image, shape (P,).
        states: The tower's patches, shape (B, N, d).
        lesson: Questions and answers after the image.

    Returns:
        Shape (n, vocabulary), in the order of ``lesson.ids[lesson.answer]``.
    """
    language_model: nn.Module = model.model.language_model
    embed: Any = language_model.embed_tokens
    image = model.model.multi_modal_projector(states)
    start = embed(prefix).expand(len(image), -1, -1)
    # In bfloat16 from here on: the states are extracted in that precision too.
    ids = lesson.ids.to(states.device)
    owner = lesson.owner.to(states.device)
    sequence = torch.cat([start, image, embed(ids)], dim=1).bfloat16()
    num_shared = start.shape[1] + image.shape[1]
    output = language_model(
        inputs_embeds=sequence,
        attention_mask=additive_mask(block_mask(num_shared, owner), sequence.dtype),
        position_ids=position_ids(num_shared, owner),
        use_cache=False,
        num_shared=num_shared,
    )
    # The state before a token predicts it.
    before = output.last_hidden_state[:, num_shared - 1 : -1]
    logits: Tensor = model.lm_head(before[lesson.answer.to(states.device)])
    return logits


def answers_right(logits: Tensor, lesson: Lesson) -> dict[str, list[bool]]:
    """Return for each type which of its questions are right in every token."""
    right = torch.zeros_like(lesson.answer)
    right[lesson.answer] = logits.argmax(dim=-1) == lesson.ids[lesson.answer]
    found: dict[str, list[bool]] = defaultdict(list)
    for row, types in enumerate(lesson.types):
        for number, kind in enumerate(types):
            mine = lesson.answer[row] & (lesson.owner[row] == number)
            found[kind].append(bool(right[row][mine].all()))
    return found
