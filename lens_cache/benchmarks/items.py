"""The questions of MME, MMBench, MMMU and MMStar.

File names are those of VLMEvalKit: the name of a file says which benchmark it has.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lens_cache.benchmarks.matching import chosen_option, yes_or_no
from lens_cache.benchmarks.prompts import LETTERS, choice_prompt
from lens_cache.benchmarks.table import Row, read_rows
from lens_cache.datasets.base import brief
from lens_cache.errors import DatasetError

# Rows whose indices agree up to a multiple of it are one question with its options rotated.
ROTATION = 10**6
_YES_NO = {"Yes": "Yes", "No": "No"}
_MARKER = re.compile(r"<image (\d+)>")


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        row: Its row.
        prompt: What the model is asked.
        options: Text of each option by letter; for MME Yes and No; empty for an open question.
        answer: The right letter, or the right text of an open question; empty if it is not known.
        group: Items of one group are right together: the questions about one image in MME (acc+),
            the rotations of a question in MMBench.
        category: Its category.
    """

    row: Row
    prompt: str
    options: dict[str, str]
    answer: str
    group: str
    category: str

    def is_right(self, said: str) -> bool:
        """Return whether an answer is right; False if the right one is not known."""
        return bool(self.answer) and self.choice(said) == self.answer

    def choice(self, said: str) -> str | None:
        """Return the option that an answer chooses; None if it is not clear."""
        if self.options.keys() == _YES_NO.keys():
            return yes_or_no(said)
        if self.options:
            return chosen_option(said, self.options)
        # As VLMEvalKit: an open question becomes a choice of its answer and "Other Answers".
        known = {"A": self.answer, "B": "Other Answers"}
        return self.answer if chosen_option(said, known) == "A" else None

    @property
    def guess(self) -> float:
        """The probability that a uniform guess is right; 0 for an open question."""
        return 1 / len(self.options) if self.options else 0.0


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's questions.

    Attributes:
        name: ``MME``, ``MMBench``, ``MMMU`` or ``MMStar``.
        path: The file.
        items: The questions.
    """

    name: str
    path: Path
    items: list[Item]

    def first(self, count: int) -> Benchmark:
        """Return the first questions, each with everything that must be right together with it.

        A part of MMBench's rotations, or one of MME's two questions about an image, would score as
        if it were the whole.

        Args:
            count: Number of groups: of questions in MMBench, of images in MME.
        """
        groups = dict.fromkeys((item.category, item.group) for item in self.items)
        kept = set(list(groups)[:count])
        items = [item for item in self.items if (item.category, item.group) in kept]
        return Benchmark(self.name, self.path, items)

    @property
    def has_answers(self) -> bool:
        """Whether the file says what is right."""
        return all(item.answer for item in self.items)


def read_benchmark(path: Path) -> Benchmark:
    """Read the file of a benchmark, such as ``MME.tsv`` or ``MMBench_DEV_EN.tsv``.

    Raises:
        DatasetError: If the name is of no known benchmark, or the file is not as it should be.
    """
    known: dict[str, tuple[Callable[[Row], Item | None], tuple[str, ...]]] = {
        "MME": (_mme, ("question", "answer", "category", "image_path")),
        "MMBench": (_choice, ("question", "A", "B", "category")),
        "MMMU": (_mmmu, ("question", "answer", "category", "split")),
        "MMStar": (_mmstar, ("question", "answer", "A", "B", "category")),
    }
    for name, (make, columns) in known.items():
        if path.name.startswith(name):
            rows = read_rows(path, columns)
            items = [item for item in map(make, rows) if item is not None]
            if not items:
                raise DatasetError(f"reading {path}: expected questions to evaluate, found none")
            _check_answers(items)
            if name == "MME":
                _check_pairs(items)
            return Benchmark(name, path, items)
    raise DatasetError(
        f"reading the benchmark {path}: expected a name that begins with {', '.join(known)}"
    )


def _mme(row: Row) -> Item:
    answer = yes_or_no(_needed(row, "answer"))
    if answer is None:
        raise DatasetError(
            f"reading {row.place}, column answer: expected Yes or No, found "
            f"{brief(row.get('answer'))}"
        )
    question = _needed(row, "question")
    image = _needed(row, "image_path")
    return Item(row, question, dict(_YES_NO), answer, image, row.get("category"))


def _check_pairs(items: list[Item]) -> None:
    """Refuse an image with one question: acc+ would be accuracy."""
    counts = Counter((item.category, item.group) for item in items)
    for item in items:
        if counts[item.category, item.group] < 2:
            raise DatasetError(
                f"reading {item.row.place}, column image_path: expected two questions about "
                f"{brief(item.group)} in the category {brief(item.category)}, found one"
            )


def _check_answers(items: list[Item]) -> None:
    """Refuse a file that has the right answers of a part of its questions only."""
    if any(item.answer for item in items):
        for item in items:
            if not item.answer:
                raise DatasetError(
                    f"reading {item.row.place}, column answer: expected an answer, as other rows "
                    "have, found none"
                )


def _mmstar(row: Row) -> Item:
    _needed(row, "answer")
    return _choice(row)


def _choice(row: Row) -> Item:
    options = {letter: row.get(letter) for letter in LETTERS if row.get(letter)}
    answer = row.get("answer")
    if len(options) < 2:
        raise DatasetError(f"reading {row.place}: expected at least two options, found {options}")
    if answer and answer not in options:
        raise DatasetError(
            f"reading {row.place}, column answer: expected one of {', '.join(options)}, found "
            f"{brief(answer)}"
        )
    prompt = choice_prompt(_needed(row, "question"), options, row.get("hint"))
    return Item(row, prompt, options, answer, str(row.index % ROTATION), row.get("category"))


def _mmmu(row: Row) -> Item | None:
    """Return a question of the validation split; the names of images stay in its text."""
    if row.get("split") != "validation":
        return None
    question = _MARKER.sub(r"image \1", _needed(row, "question"))
    options = {
        letter: _MARKER.sub(r"image \1", row.get(letter)) for letter in LETTERS if row.get(letter)
    }
    answer = _needed(row, "answer")
    if options and answer not in options:
        raise DatasetError(
            f"reading {row.place}, column answer: expected one of {', '.join(options)}, found "
            f"{brief(answer)}"
        )
    prompt = choice_prompt(question, options, row.get("hint"))
    return Item(row, prompt, options, answer, str(row.index), row.get("category"))


def _needed(row: Row, column: str) -> str:
    if text := row.get(column).strip():
        return text
    raise DatasetError(f"reading {row.place}: expected a text in the column {column}, found none")
