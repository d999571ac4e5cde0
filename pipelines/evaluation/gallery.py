"""Panels of answers: best, median and worst of each kind, pairs of the swap test, failures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL.Image import Image

from lens_cache.evaluation.scores import Sample
from lens_cache.evaluation.swap_test import swap_test
from lens_cache.progress import Progress
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
        failures: The answers with the lowest IoU.
    """

    split: str
    kinds: dict[str, list[Shot]]
    swaps: list[list[Shot]]
    pairs: int
    passed: int
    failures: list[Shot] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """A query and its result."""

    draw: Draw
    sample: Sample


def gallery(
    job: Job, *, num_swaps: int = 4, num_failures: int = 0, progress: Progress | None = None
) -> Gallery:
    """Answer every query of a split, and draw the chosen ones.

    Args:
        job: A head on a split.
        num_swaps: Number of pairs to draw.
        num_failures: Number of queries with the lowest IoU to draw.
        progress: Called with the name of the step, images done and images in all.

    Raises:
        LensCacheError: If head and features do not fit.
    """
    answers, root, chosen = job.build(), job.split.root, job.split
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
    everything = sorted(
        (place for mine in places.values() for place in mine),
        key=lambda place: (place.sample.iou, place.sample.query_id),
    )
    return Gallery(
        split=chosen.name,
        kinds={kind: _ranked(answers, root, mine) for kind, mine in sorted(places.items())},
        swaps=[
            _shots(answers, root, firsts[index], "")
            for index in evenly_spaced(len(firsts), num_swaps)
        ],
        pairs=pairs,
        passed=passed,
        failures=[
            shot
            for place in everything[:num_failures]
            for shot in _shots(answers, root, place.draw, "failure")
        ],
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
            pictures=replace(
                panel_of(sample, pair, answer, read_photo(root, sample.image)),
                keypoints_in="truth",
            ).images(SIDE),
        )
        for sample, pair, answer in answers.of(draw)
    ]
