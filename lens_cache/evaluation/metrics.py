"""gIoU and cIoU with LISA's semantics, counted in integers.

gIoU is the mean IoU over masks (not the "generalised IoU" of boxes), cIoU the IoU of all pixels of
a split together. Ignored pixels are not counted. An empty target with an empty prediction scores 1,
an empty target with any foreground scores 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

GIOU_EPSILON = 1e-5
CIOU_EPSILON = 1e-10
_CHUNK = 256  # resamples drawn at once, which bounds memory


class MaskIoU(Metric):
    """Accumulates gIoU and cIoU over a split and over groups of it; sums over processes are exact.

    Each mask must be added in exactly one process. LISA's evaluation repeats samples to give each
    process as many, which this metric cannot undo.

    Args:
        groups: Names of the groups; a mask may belong to several.
    """

    full_state_update = False
    intersection: Tensor
    union: Tensor
    iou_sum: Tensor
    count: Tensor

    def __init__(self, groups: Iterable[str] = ()) -> None:
        super().__init__()
        self._places = {name: place for place, name in enumerate(groups, start=1)}
        size = len(self._places) + 1  # the first is the whole split
        for name in ("intersection", "union", "count"):
            self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("iou_sum", torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        prediction: Tensor,
        target: Tensor,
        ignore: Tensor | None = None,
        *,
        groups: Iterable[str] = (),
    ) -> None:
        """Add one mask, bool (H, W), or several of one size, bool (..., H, W).

        Args:
            prediction: Predicted masks.
            target: True masks.
            ignore: Pixels that are not counted.
            groups: The groups they belong to.
        """
        intersection, union = intersection_and_union(prediction, target, ignore)
        places = [0, *(self._places[name] for name in groups)]
        mine = torch.zeros_like(self.count)
        mine[places] = 1
        self.intersection = self.intersection + mine * intersection.sum()
        self.union = self.union + mine * union.sum()
        self.iou_sum = self.iou_sum + mine * iou(intersection, union).sum()
        self.count = self.count + mine * intersection.numel()

    def compute(self) -> dict[str, Tensor]:
        """Return ``giou`` and ``ciou``, float64 in [0, 1]; NaN if there is no mask.

        Also ``giou/GROUP`` and ``ciou/GROUP`` of every group with a mask.
        """
        giou = self.iou_sum / self.count
        ciou = self.intersection.double() / (self.union.double() + CIOU_EPSILON)
        ciou = torch.where(self.count > 0, ciou, torch.nan)
        found = {"giou": giou[0], "ciou": ciou[0]}
        for name, place in self._places.items():
            if self.count[place]:
                found |= {f"giou/{name}": giou[place], f"ciou/{name}": ciou[place]}
        return found


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval."""

    value: float
    low: float
    high: float

    def percent(self) -> str:
        """Return the estimate and its bounds in percent, e.g. ``61.2 (58.0 - 64.1)``."""
        return f"{100 * self.value:.1f} ({100 * self.low:.1f} - {100 * self.high:.1f})"


def intersection_and_union(
    prediction: Tensor, target: Tensor, ignore: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Count the foreground pixels that two masks share and cover.

    Args:
        prediction: Bool, shape (..., H, W).
        target: Bool, shape (..., H, W).
        ignore: Pixels that count nowhere, bool, shape (..., H, W).

    Returns:
        Intersection and union in pixels, int64, shape (...).

    Raises:
        ValueError: If the shapes differ or a mask is not bool.
    """
    for name, mask in (("prediction", prediction), ("target", target), ("ignore", ignore)):
        if mask is not None and (mask.dtype != torch.bool or mask.shape != target.shape):
            raise ValueError(
                f"{name} must be bool of shape {tuple(target.shape)}, got {mask.dtype} of shape "
                f"{tuple(mask.shape)}"
            )
    both, either = prediction & target, prediction | target
    if ignore is not None:
        both, either = both & ~ignore, either & ~ignore
    return both.sum(dim=(-2, -1)), either.sum(dim=(-2, -1))


def iou(intersection: Tensor, union: Tensor) -> Tensor:
    """Return the IoU of each mask, float64: 1 where the union is empty, as in LISA."""
    ratio = intersection.double() / (union.double() + GIOU_EPSILON)
    return torch.where(union == 0, 1.0, ratio)


def bootstrap(
    intersections: Sequence[int],
    unions: Sequence[int],
    images: Sequence[Hashable],
    *,
    ious: Sequence[float] | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return ``giou`` and ``ciou`` with percentile bootstrap intervals.

    Whole images are drawn with replacement, because the questions of one image are not
    independent.

    Args:
        intersections: Of each mask, in pixels.
        unions: Of each mask, in pixels.
        images: The image of each mask.
        ious: Of each mask, where they are not the quotients of the counts but expected values.
        resamples: Number of bootstrap samples of the split.
        confidence: Share of the resamples between the bounds.
        seed: Makes the bounds reproducible.

    Raises:
        ValueError: If there is no mask, or the lists differ in length.
    """
    if not len(intersections) == len(unions) == len(images) > 0:
        raise ValueError(
            "expected three lists of one length, at least 1, got "
            f"{len(intersections)}, {len(unions)} and {len(images)}"
        )
    if ious is None:
        ious = iou(torch.as_tensor(intersections), torch.as_tensor(unions)).tolist()
    sums = _sums_per_image(intersections, unions, ious, images)
    scores = _resample(sums, resamples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(scores, [tail, 1 - tail], axis=0)
    value = _scores(sums.sum(axis=0, keepdims=True))[0]
    return {
        name: Interval(float(value[i]), float(low[i]), float(high[i]))
        for i, name in enumerate(("giou", "ciou"))
    }


def _resample(
    sums: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the scores of bootstrap samples of the images, shape (resamples, 2)."""
    count = len(sums)
    scores = []
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        times = rng.multinomial(count, np.full(count, 1 / count), size=rows)
        scores.append(_scores(times @ sums))
    return np.concatenate(scores)


def _sums_per_image(
    intersections: Sequence[int],
    unions: Sequence[int],
    ious: Sequence[float],
    images: Sequence[Hashable],
) -> NDArray[np.float64]:
    """Return intersection, union, IoU and number of masks per image, shape (images, 4)."""
    index = {image: i for i, image in enumerate(dict.fromkeys(images))}
    rows = np.array([index[image] for image in images])
    columns = [intersections, unions, ious, np.ones(len(rows))]
    each = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    sums = np.zeros((len(index), 4))
    np.add.at(sums, rows, each)
    return sums


def _scores(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return gIoU and cIoU of sums (..., 4), shape (..., 2)."""
    giou = sums[..., 2] / sums[..., 3]
    ciou = sums[..., 0] / (sums[..., 1] + CIOU_EPSILON)
    return np.stack([giou, ciou], axis=-1)
