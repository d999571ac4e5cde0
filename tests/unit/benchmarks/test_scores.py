"""Scores of benchmarks against sums written out, and those of a random guess against many draws."""

from pathlib import Path

import numpy as np
import pytest

from lens_cache.benchmarks.items import Benchmark, Item
from lens_cache.benchmarks.scores import random_guess, score_answers
from lens_cache.benchmarks.table import Row

ROW = Row("a.tsv, line 2", {}, "")
FOUR = {"A": "a", "B": "b", "C": "c", "D": "d"}


def item(group, category="c", options=FOUR):
    return Item(ROW, "?", options, "A", group, category)


def benchmark(name, *items):
    return Benchmark(name, Path(f"{name}.tsv"), list(items))


def test_mme_adds_accuracy_and_both_right_over_categories():
    yes_no = {"Yes": "Yes", "No": "No"}
    groups = [
        ("a", "color"),
        ("a", "color"),
        ("b", "color"),
        ("b", "color"),
        ("x", "text_translation"),
    ]
    found = score_answers(
        benchmark("MME", *(item(group, name, yes_no) for group, name in groups)),
        [True, True, True, False, True],
    )  # fmt: skip
    assert found.categories == {"color": 75 + 50, "text_translation": 200}
    assert found.parts == {"perception": 125, "cognition": 200}
    assert found.score == 325


def test_a_question_of_mmbench_needs_all_its_rotations():
    items = [item("1"), item("1"), item("2", "d"), item("2", "d"), item("3")]
    found = score_answers(benchmark("MMBench", *items), [True, True, True, False, True])
    assert found.score == pytest.approx(100 * 2 / 3)
    assert found.parts == {"rows": 80}
    assert found.categories == {"c": 100, "d": 0}


def test_others_count_rows():
    found = score_answers(benchmark("MMStar", item("1"), item("1"), item("2")), [True, False, True])
    assert found.score == pytest.approx(200 / 3)


@pytest.mark.parametrize("name", ["MME", "MMBench", "MMMU"])
def test_a_random_guess_has_its_expected_score(name):
    rng = np.random.default_rng(0)
    two = {"A": "a", "B": "b"}
    items = [
        item("1", "c", two),
        item("1", "c", two),
        item("2"),
        item("3", "d"),
        item("4", "d", {}),
    ]
    made = benchmark(name, *items)
    draws = [
        score_answers(made, [bool(rng.random() < one.guess) for one in items]).score
        for _ in range(4000)
    ]
    assert random_guess(made).score == pytest.approx(np.mean(draws), abs=1.5)
    assert not items[-1].guess
