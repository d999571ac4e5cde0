"""Panels of a run's answers: best, median and worst of each kind, and pairs of the swap test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image

from lens_cache.evaluation.scores import Sample
from lens_cache.evaluation.split import EvaluationSplit
from lens_cache.evaluation.swap_test import swap_test
from lens_cache.predictor.trained_head import TrainedHead
from lens_cache.progress import Progress
from lens_cache.store.store import Store
from lens_cache.training.run import Run
from lens_cache.training.sampling import Draw
from pipelines.evaluation.answers import Answers
from pipelines.evaluation.job import Job
from pipelines.evaluation.panels import evenly_spaced, panel_of, read_photo

SIDE = 220
RANKS = {"best": 0.0, "median": 0.5, "worst": 1.0}


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One answered query: its rank among those of its kind, and its drawings by name."""

    rank: str
    sample: Sample
    pictures: dict[str, Image]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Chosen answers of a run on a split.

    Attributes:
        split: The split.
        kinds: Best, median and worst answer of each kind.
        swaps: Pairs of answers to two instructions about one image, evenly spaced over the split.
        pairs: Number of pairs in the split with targets that share no pixel.
        passed: Number of those that passed the swap test.
    """

    split: str
    kinds: dict[str, list[Shot]]
    swaps: list[list[Shot]]
    pairs: int
    passed: int


@dataclass(frozen=True)
class _Place:
    """A query and its result."""

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
        run: The run; its best checkpoint is used.
        store: A store with the features that the run was trained on; images are read from its
            ``data.root``.
        split: Split of the queries.
        num_swaps: Number of pairs to draw.
        progress: Called with the name of the step, images done and images in all.

    Raises:
        LensCacheError: If run and store do not fit, or the split is empty.
    """
    run.require_features_of(store)
    chosen = EvaluationSplit.of_store(store, split)
    answers = Job(head=TrainedHead.of_run(run), split=chosen, store=store.root).build()
    root = chosen.root
    places: dict[str, list[_Place]] = defaultdict(list)
    firsts: list[Draw] = []
    pairs = passed = 0
    for done, draw in enumerate(chosen.draws, 1):
        found = list(answers.of(draw))
        for sample, pair, _ in found:
            places[sample.kind].append(_Place(Draw(draw.image, (pair.query,)), sample))
        masks = [pair for _, pair, _ in found]
        found_pairs, pair_passed = swap_test(
            torch.stack([pair.prediction for pair in masks]),
            torch.stack([pair.truth for pair in masks]),
        )
        pairs += len(found_pairs)
        passed += int(pair_passed.sum())
        if len(found_pairs):
            firsts.append(Draw(draw.image, tuple(draw.queries[i] for i in found_pairs[0])))
        if progress is not None:
            progress("gallery", done, len(chosen.draws))
    return Gallery(
        split=split,
        kinds={kind: _ranked(answers, root, mine) for kind, mine in sorted(places.items())},
        swaps=[
            _shots(answers, root, firsts[index], "")
            for index in evenly_spaced(len(firsts), num_swaps)
        ],
        pairs=pairs,
        passed=passed,
    )


def _ranked(answers: Answers, root: Path, places: Sequence[_Place]) -> list[Shot]:
    """Draw the best, the median and the worst; ties are broken by query id."""
    ordered = sorted(places, key=lambda place: (-place.sample.iou, place.sample.query_id))
    return [
        shot
        for rank, share in RANKS.items()
        for shot in _shots(answers, root, ordered[round(share * (len(ordered) - 1))].draw, rank)
    ]


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
