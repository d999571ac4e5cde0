"""Confidence intervals by the bootstrap over images.

Whole images are drawn with replacement, because the questions of one image are not independent.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 256  # resamples drawn at once, which bounds memory


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """Return the estimate and its bounds in percent, e.g. ``61.2 (58.0 - 64.1)``."""
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} - {100 * self.high:.1f})"


@dataclass(frozen=True)
class Ratio:
    """A score that is the quotient of two sums over samples; a mean if ``denominators`` is None.

    Attributes:
        numerators: Of each sample.
        denominators: Of each sample; 1 if None.
        epsilon: Added to the sum of the denominators.
    """

    numerators: Sequence[float]
    denominators: Sequence[float] | None = None
    epsilon: float = 0.0

    @property
    def value(self) -> float:
        """The score of all samples."""
        total = len(self.numerators) if self.denominators is None else sum(self.denominators)
        return sum(self.numerators) / (total + self.epsilon)


def bootstrap(
    ratios: Mapping[str, Ratio],
    images: Sequence[Hashable],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return each score with its percentile bootstrap interval.

    A resample in which the denominators of a score add up to zero does not count for that score.

    Args:
        ratios: The scores, by name; the denominators of each must not add up to zero.
        images: The image of each sample.
        resamples: Number of bootstrap samples.
        confidence: Share of the resamples between the bounds.
        seed: Makes the bounds reproducible.

    Raises:
        ValueError: If there is no sample, or the lists differ in length.
    """
    value, scores = _resampled(list(ratios.values()), images, resamples, seed)
    return dict(zip(ratios, _intervals(value, scores, confidence), strict=True))


def paired_bootstrap(
    first: Mapping[str, Ratio],
    second: Mapping[str, Ratio],
    images: Sequence[Hashable],
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return the difference second - first of each score with its interval.

    Both methods are scored on the same resampled images, so that what makes an image hard for both
    cancels.

    Args:
        first: Scores of a method, by name; see ``bootstrap``.
        second: Scores of another method on the same samples, with the same names.
        images: See ``bootstrap``.
        resamples: See ``bootstrap``.
        confidence: See ``bootstrap``.
        seed: See ``bootstrap``.

    Raises:
        ValueError: If there is no sample, or lists or names differ.
    """
    if list(first) != list(second):
        raise ValueError(f"expected the same scores, got {list(first)} and {list(second)}")
    value, scores = _resampled([*first.values(), *second.values()], images, resamples, seed)
    count = len(first)
    difference = scores[:, count:] - scores[:, :count]
    return dict(
        zip(first, _intervals(value[count:] - value[:count], difference, confidence), strict=True)
    )


def _resampled(
    ratios: Sequence[Ratio], images: Sequence[Hashable], resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores, shape (scores,), and those of the resamples, (resamples, scores)."""
    columns = [
        column
        for ratio in ratios
        for column in (ratio.numerators, ratio.denominators or [1.0] * len(ratio.numerators))
    ]
    lengths = {len(images), *map(len, columns)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"expected lists of one length, at least 1, got {sorted(lengths)}")
    sums = _sums_per_image(columns, images)
    epsilons = np.array([ratio.epsilon for ratio in ratios])
    value = _quotients(sums.sum(axis=0, keepdims=True), epsilons)[0]
    return value, _resample(sums, epsilons, resamples, np.random.default_rng(seed))


def _intervals(
    value: NDArray[np.float64], scores: NDArray[np.float64], confidence: float
) -> list[Interval]:
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(scores, [tail, 1 - tail], axis=0)
    return [Interval(*map(float, row)) for row in zip(value, low, high, strict=True)]


def _resample(
    sums: NDArray[np.float64],
    epsilons: NDArray[np.float64],
    resamples: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the scores of bootstrap samples of the images, shape (resamples, scores)."""
    count = len(sums)
    scores = []
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        times = rng.multinomial(count, np.full(count, 1 / count), size=rows)
        scores.append(_quotients(times @ sums, epsilons))
    return np.concatenate(scores)


def _sums_per_image(
    columns: Sequence[Sequence[float]], images: Sequence[Hashable]
) -> NDArray[np.float64]:
    """Return the sums of the columns over the samples of each image, shape (images, columns)."""
    index = {image: i for i, image in enumerate(dict.fromkeys(images))}
    rows = np.array([index[image] for image in images])
    each = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    sums = np.zeros((len(index), len(columns)))
    np.add.at(sums, rows, each)
    return sums


def _quotients(sums: NDArray[np.float64], epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the scores of sums (..., 2 x scores), shape (..., scores); NaN for 0 / 0."""
    with np.errstate(invalid="ignore"):
        return sums[..., 0::2] / (sums[..., 1::2] + epsilons)
