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
    columns = [
        column
        for ratio in ratios.values()
        for column in (ratio.numerators, ratio.denominators or [1.0] * len(ratio.numerators))
    ]
    lengths = {len(images), *map(len, columns)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"expected lists of one length, at least 1, got {sorted(lengths)}")
    sums = _sums_per_image(columns, images)
    epsilons = np.array([ratio.epsilon for ratio in ratios.values()])
    scores = _resample(sums, epsilons, resamples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(scores, [tail, 1 - tail], axis=0)
    value = _quotients(sums.sum(axis=0, keepdims=True), epsilons)[0]
    return {
        name: Interval(float(value[i]), float(low[i]), float(high[i]))
        for i, name in enumerate(ratios)
    }


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
