"""How much a mask can be trusted: raw measures, their calibration, and risk-coverage curves.

A mask has two measures that need no truth: *quality*, the IoU that SAM's quality head estimates,
and *stability*, how little the mask changes with its threshold (SAM's stability score). On a
validation split, the one whose order of the masks is best is chosen and mapped to the IoU that
masks with its value had there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Measure = Literal["quality", "stability"]
MEASURES: tuple[Measure, ...] = ("quality", "stability")
# Shift of the threshold in logits, as in segment-anything.
STABILITY_OFFSET = 1.0
COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.25)
_BINS = 20


def stability(logits: Tensor, threshold: float) -> Tensor:
    """Return the IoU of a mask at a higher and at a lower threshold, a scalar from 0 to 1.

    Args:
        logits: Mask logits in the pixels of the image, shape (H, W).
        threshold: The logit above which a pixel is foreground.
    """
    smaller = (logits > threshold + STABILITY_OFFSET).sum()
    larger = (logits > threshold - STABILITY_OFFSET).sum()
    return smaller / larger.clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Maps a measure to the IoU that is expected of a mask.

    Attributes:
        measure: The measure.
        values: Its values at the knots, ascending.
        ious: The expected IoU at each knot, ascending.
        split: Split on which it was fitted.
        queries: Number of queries there.
        aurc: Area under the risk-coverage curve of each measure there; less is better.
    """

    measure: Measure
    values: tuple[float, ...]
    ious: tuple[float, ...]
    split: str
    queries: int
    aurc: dict[str, float]

    def score(self, measures: Mapping[Measure, float]) -> float:
        """Return the expected IoU of a mask with these measures."""
        return float(np.interp(measures[self.measure], self.values, self.ious))


def calibrate(measures: Mapping[Measure, ArrayLike], ious: ArrayLike, split: str) -> Calibration:
    """Choose the best measure on a split and fit its calibration.

    Args:
        measures: Values of each measure, shape (n,).
        ious: IoU of each mask, shape (n,).
        split: Name of the split.
    """
    truth = np.asarray(ious, dtype=np.float64)
    values = {name: np.asarray(value, dtype=np.float64) for name, value in measures.items()}
    areas = {name: risk_coverage(value, truth).area for name, value in values.items()}
    best = min(areas, key=lambda name: areas[name])
    x, y = _isotonic(values[best], truth)
    return Calibration(
        measure=best,
        values=tuple(x),
        ious=tuple(y),
        split=split,
        queries=len(truth),
        aurc={str(name): area for name, area in areas.items()},
    )


@dataclass(frozen=True, kw_only=True)
class RiskCoverage:
    """The risk, 1 - mean IoU, of the masks with the highest scores.

    Attributes:
        risk: By coverage, the share of the masks that are kept.
        area: Mean risk over all coverages (AURC).
        best: The same area if masks were ordered by their true IoU.
        random: The same area for a random order: the risk of all masks.
    """

    risk: dict[float, float]
    area: float
    best: float
    random: float


def risk_coverage(scores: ArrayLike, ious: ArrayLike) -> RiskCoverage:
    """Return the risk-coverage curve of a score; equal scores are kept together.

    Args:
        scores: A score of each mask, shape (n,), higher is better; n >= 1.
        ious: IoU of each mask, shape (n,).
    """
    score, iou = np.asarray(scores, dtype=np.float64), np.asarray(ious, dtype=np.float64)
    curve = _curve(score, iou)
    count = len(iou)
    return RiskCoverage(
        risk={share: float(curve[max(0, round(share * count) - 1)]) for share in COVERAGES},
        area=float(curve.mean()),
        best=float(_curve(iou, iou).mean()),
        random=float(1 - iou.mean()),
    )


def _curve(score: NDArray[np.float64], iou: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the risk of the first 1, 2, ... n masks, ordered by score, shape (n,)."""
    order = np.argsort(-score, kind="stable")
    # Masks with equal scores cannot be told apart: each counts with their mean.
    _, group = np.unique(-score[order], return_inverse=True)
    means = np.bincount(group, weights=iou[order]) / np.bincount(group)
    return 1 - np.cumsum(means[group]) / np.arange(1, len(iou) + 1)


def _isotonic(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[list[float], list[float]]:
    """Fit a rising step curve to means over bins of equally many points (pool adjacent violators).

    Returns:
        Mean x and mean y of each pool, both ascending.
    """
    order = np.argsort(x, kind="stable")
    pools: list[list[float]] = []  # count, mean x, mean y
    for part in np.array_split(order, min(_BINS, len(order))):
        pools.append([len(part), float(x[part].mean()), float(y[part].mean())])
        while len(pools) > 1 and pools[-2][2] >= pools[-1][2]:
            count, mean_x, mean_y = pools.pop()
            before = pools[-1]
            total = before[0] + count
            before[1] = (before[0] * before[1] + count * mean_x) / total
            before[2] = (before[0] * before[2] + count * mean_y) / total
            before[0] = total
    return [pool[1] for pool in pools], [pool[2] for pool in pools]


def measures_of(quality: Tensor, logits: Tensor, threshold: float) -> dict[Measure, Tensor]:
    """Return both measures of one mask as scalars, without waiting for the device.

    Args:
        quality: SAM's estimate of its IoU, a scalar.
        logits: Its logits in the pixels of the image, shape (H, W).
        threshold: The logit above which a pixel is foreground.
    """
    return {"quality": quality, "stability": stability(logits, threshold)}
