"""Scores of answers to a benchmark, as VLMEvalKit reports them, and those of a random guess."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from lens_cache.benchmarks.items import Benchmark, Item

# MME's categories of reasoning; all others are of perception.
COGNITION = (
    "code_reasoning",
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
)


@dataclass(frozen=True, kw_only=True)
class BenchmarkScore:
    """Scores of one method.

    Attributes:
        score: The benchmark's headline: for MME the sum over its categories (at most 200 each), for
            the others the accuracy in percent; of MMBench with all rotations right (CircularEval).
        parts: Further sums: MME's perception and cognition, MMBench's accuracy of single rows.
        categories: The score of each category.
    """

    score: float
    parts: dict[str, float]
    categories: dict[str, float]


def score_answers(benchmark: Benchmark, right: Sequence[bool]) -> BenchmarkScore:
    """Score answers, given whether each is right."""
    values = {id(item): float(one) for item, one in zip(benchmark.items, right, strict=True)}
    return _score(benchmark, lambda item: values[id(item)])


def random_guess(benchmark: Benchmark) -> BenchmarkScore:
    """Return the expected scores of a method that draws an option for every row."""
    return _score(benchmark, lambda item: item.guess)


def _score(benchmark: Benchmark, probability: Callable[[Item], float]) -> BenchmarkScore:
    """Score a method that answers each item, independently, right with a probability."""
    by_category: dict[str, list[Item]] = defaultdict(list)
    for item in benchmark.items:
        by_category[item.category].append(item)

    def single(items: Sequence[Item]) -> float:
        return 100 * fmean(map(probability, items))

    def grouped(items: Sequence[Item]) -> float:
        groups: dict[str, list[float]] = defaultdict(list)
        for item in items:
            groups[item.group].append(probability(item))
        return 100 * fmean(map(math.prod, groups.values()))

    if benchmark.name == "MME":
        categories = {
            name: single(items) + grouped(items) for name, items in sorted(by_category.items())
        }
        cognition = sum(value for name, value in categories.items() if name in COGNITION)
        total = sum(categories.values())
        parts = {"perception": total - cognition, "cognition": cognition}
        return BenchmarkScore(score=total, parts=parts, categories=categories)
    measure = grouped if benchmark.name == "MMBench" else single
    return BenchmarkScore(
        score=measure(benchmark.items),
        parts={"rows": single(benchmark.items)} if benchmark.name == "MMBench" else {},
        categories={name: measure(items) for name, items in sorted(by_category.items())},
    )
