"""Scores of the baselines on a store: the frozen models without LENS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lens_cache.datasets.things import SCENES_FILE, Things, read_things
from lens_cache.errors import DatasetError
from lens_cache.evaluation.baselines import (
    ORACLE_POINTS,
    FrozenMasks,
    Reading,
    points_inside,
    random_thing,
)
from lens_cache.evaluation.ground_truth import Case, cases, stack
from lens_cache.evaluation.scores import Sample, Scores, score_all
from lens_cache.progress import Progress
from lens_cache.store.store import Store

EVERYTHING, ATTENTION_MASK, ATTENTION_PEAK = "everything", "attention mask", "attention peak"
RANDOM_THING, ORACLE = "random thing", "oracle points"
# There are many baselines, and their intervals need no third digit.
_RESAMPLES = 1000
CENTRE = torch.tensor([[0.5, 0.5]])
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One baseline.

    Attributes:
        name: Its name.
        note: Its description, with the chosen layer, rows and share.
        ceiling: Whether it uses the true masks, so that it is an upper bound.
        splits: Its scores on each split.
    """

    name: str
    note: str
    ceiling: bool
    splits: dict[str, Scores]


@dataclass(frozen=True, kw_only=True)
class Baselines:
    """All baselines.

    Attributes:
        development: The split on which layers, rows and share were chosen.
        lines: The baselines; the ceiling last.
        notes: Baselines that could not be measured, with the reason.
    """

    development: str
    lines: list[Line]
    notes: list[str]


@dataclass(frozen=True)
class _Choice:
    """The best readings on the development split: to threshold, at a share, and to point."""

    cut: Reading
    share: float
    peak: Reading


def baselines(
    store: Store,
    splits: Sequence[str],
    *,
    development: str,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Baselines:
    """Measure every baseline on splits of a store.

    Args:
        store: A complete store.
        splits: The splits to measure.
        development: Another split, on which layer, rows and share are chosen.
        limit: Use only this many images of each split, the first ones.
        seed: Seed of the random thing of each query.
        progress: Called with the name of the step, images done and images in all.

    Raises:
        StoreError: If a split is empty, or the store has the weights of none of its layers.
        DatasetError: If the data lists the things of some images, but not of all.
    """
    things = read_things(
        store.manifest.data_root,
        {
            store.plan.image(image).path.as_posix()
            for split in splits
            for image in store.images(split, limit)
        },
    )
    with torch.inference_mode():
        frozen = FrozenMasks(store)
        choice = _choose(frozen, _cases(store, development, limit, progress))
        found: dict[str, dict[str, list[Sample]]] = defaultdict(lambda: defaultdict(list))
        for split in splits:
            for case in _cases(store, split, limit, progress):
                for name, samples in _measure(frozen, case, choice, things, seed):
                    found[name][split] += samples
    return Baselines(
        development=development,
        lines=[
            Line(
                name=name,
                note=note,
                ceiling=name == ORACLE,
                splits={
                    split: score_all(samples, resamples=_RESAMPLES)
                    for split, samples in found[name].items()
                },
            )
            for name, note in _notes(choice).items()
            if name in found
        ],
        notes=[] if things is not None else [f"no {RANDOM_THING}: the data has no {SCENES_FILE}"],
    )


def _cases(
    store: Store, split: str, limit: int | None, progress: Progress | None
) -> Iterator[Case]:
    return cases(store, split, limit, progress, f"lines {split}")


def _choose(frozen: FrozenMasks, seen: Iterator[Case]) -> _Choice:
    """Choose layers, rows and share by gIoU."""
    by_cut = {reading: torch.zeros(len(SHARES), dtype=torch.float64) for reading in frozen.readings}
    by_peak = dict.fromkeys(frozen.readings, 0.0)
    for case in seen:
        for reading in frozen.readings:
            cut = frozen.attention(case.draw, reading, SHARES).transpose(0, 1)
            by_cut[reading] += case.ious(cut).sum(dim=1)
            by_peak[reading] += float(case.ious(frozen.at_peak(case.draw, reading)).sum())
    best = max(by_cut, key=lambda reading: float(by_cut[reading].max()))
    share = SHARES[int(by_cut[best].argmax())]
    return _Choice(cut=best, share=share, peak=max(by_peak, key=by_peak.__getitem__))


def _measure(
    frozen: FrozenMasks, case: Case, choice: _Choice, things: Things | None, seed: int
) -> Iterator[tuple[str, list[Sample]]]:
    """Yield the samples of every baseline on an image."""
    yield EVERYTHING, case.samples(torch.ones_like(case.targets))
    cut = frozen.attention(case.draw, choice.cut, [choice.share])[:, 0]
    yield ATTENTION_MASK, case.samples(cut)
    yield ATTENTION_PEAK, case.samples(frozen.at_peak(case.draw, choice.peak))
    if things is not None:
        yield RANDOM_THING, list(_random_things(case, things, seed))
    # Of an empty target the ceiling is an empty mask, whatever SAM makes of a point.
    there = case.targets.flatten(1).any(dim=1)
    points = [points_inside(target) if target.any() else CENTRE for target in case.targets]
    oracle = frozen.at_points(case.draw, points) & there[:, None, None]
    yield ORACLE, case.samples(oracle)


def _random_things(case: Case, things: Things, seed: int) -> Iterator[Sample]:
    path = case.image.path.as_posix()
    if path not in things:
        raise DatasetError(
            f"measuring the baseline {RANDOM_THING!r}: {SCENES_FILE} has no entry for {path}; "
            "write the data again"
        )
    here = stack(things[path])
    for number, place in enumerate(case.draw.queries):
        drawn = int(np.random.default_rng([seed, place]).integers(len(here)))
        found = random_thing(here, case.targets[number], case.ignores[number], drawn)
        yield Sample.of(case.queries[number], case.image, found)


def _notes(choice: _Choice) -> dict[str, str]:
    """Return the description of every baseline."""
    return {
        EVERYTHING: "the whole image",
        ATTENTION_MASK: f"the MLLM's raw attention of {_name(choice.cut)}, cut at "
        f"{choice.share:.0%} of its peak",
        ATTENTION_PEAK: f"SAM prompted at the peak of the raw attention of {_name(choice.peak)}",
        RANDOM_THING: "a perfect mask of one random thing of the image: gIoU is the exact "
        "expectation, cIoU that of a draw",
        ORACLE: f"a ceiling: SAM prompted by up to {ORACLE_POINTS} points inside the true mask",
    }


def _name(reading: Reading) -> str:
    rows = "mean over the words" if reading.rows == "mean" else "last word"
    return f"layer {reading.layer}, {rows}"
