"""Pictures of a run's answers: the best, the median and the worst of each kind, and swaps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image

from lens_cache.evaluation.scores import Sample
from lens_cache.evaluation.swap_test import swap_test
from lens_cache.progress import Progress
from lens_cache.store.store import Store
from lens_cache.training.data import evaluation_draws
from lens_cache.training.run import Run
from lens_cache.training.sampling import Draw
from pipelines.evaluation.answers import Answers
from pipelines.evaluation.panels import panel_of, read_photo

SIDE = 220
RANKS = {"best": 0.0, "median": 0.5, "worst": 1.0}


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One answered query: its place among those of its kind, and its pictures by name."""

    rank: str
    sample: Sample
    pictures: dict[str, Image]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """What a run answers on a split.

    Attributes:
        split: The split.
        kinds: By kind its best, median and worst answer.
        swaps: Pairs of answers to two instructions about one picture, evenly spread over the split.
        pairs: Number of such pairs in the split, whose targets share no pixel.
        passed: How many of them passed the swap test.
    """

    split: str
    kinds: dict[str, list[Shot]]
    swaps: list[list[Shot]]
    pairs: int
    passed: int


@dataclass(frozen=True)
class _Place:
    """Where a query stands in the store, and what was answered."""

    draw: Draw
    sample: Sample


def gallery(
    run: Run,
    store: Store,
    split: str,
    *,
    num_swaps: int = 4,
    progress: Progress | None = None,
) -> Gallery:
    """Answer every query of a split, and draw the chosen ones.

    Args:
        run: The run; its best checkpoint answers.
        store: A store with the features that the run was trained on, its pictures at ``data.root``.
        split: Which queries.
        num_swaps: How many pairs are drawn.
        progress: Called with the step's name, images done and in all.

    Raises:
        LensCacheError: If run and store do not fit, or the split is empty.
    """
    run.require_features_of(store)
    answers, root = Answers(run, store), Path(str(store.manifest.config["data"]["root"]))
    places: dict[str, list[_Place]] = defaultdict(list)
    firsts: list[Draw] = []
    pairs = passed = 0
    draws = evaluation_draws(store, split, None)
    for done, draw in enumerate(draws, 1):
        found = list(answers.of(draw))
        for sample, pair, _ in found:
            places[sample.kind].append(_Place(Draw(draw.image, (pair.query,)), sample))
        masks = [pair for _, pair, _ in found]
        two, fine = swap_test(
            torch.stack([pair.prediction for pair in masks]),
            torch.stack([pair.truth for pair in masks]),
        )
        pairs, passed = pairs + len(two), passed + int(fine.sum())
        firsts += [Draw(draw.image, tuple(draw.queries[i] for i in two[0]))] if len(two) else []
        if progress is not None:
            progress("gallery", done, len(draws))
    return Gallery(
        split=split,
        kinds={kind: _ranked(answers, root, mine) for kind, mine in sorted(places.items())},
        swaps=[_shots(answers, root, draw, "") for draw in _spread(firsts, num_swaps)],
        pairs=pairs,
        passed=passed,
    )


def _ranked(answers: Answers, root: Path, places: Sequence[_Place]) -> list[Shot]:
    """Draw the best, the median and the worst; of equal ones the first by id."""
    ordered = sorted(places, key=lambda place: (-place.sample.iou, place.sample.query_id))
    return [
        shot
        for rank, share in RANKS.items()
        for shot in _shots(answers, root, ordered[round(share * (len(ordered) - 1))].draw, rank)
    ]


def _spread(draws: Sequence[Draw], count: int) -> list[Draw]:
    """Choose evenly; by place, not by merit."""
    places = np.linspace(0, len(draws) - 1, min(count, len(draws))).round().astype(int)
    return [draws[place] for place in places]


def _shots(answers: Answers, root: Path, draw: Draw, rank: str) -> list[Shot]:
    """Draw the queries of an image."""
    return [
        Shot(
            rank=rank,
            sample=sample,
            pictures=panel_of(sample, pair, answer, read_photo(root, sample.image)).images(SIDE),
        )
        for sample, pair, answer in answers.of(draw)
    ]
