"""gIoU and cIoU with LISA's semantics, counted in integers.

gIoU is the mean IoU over masks (not the "generalised IoU" of boxes), cIoU the IoU of all pixels of
a split together. Ignored pixels are not counted. An empty target with an empty prediction scores 1,
an empty target with any foreground scores 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from lens_cache.evaluation.boundary import boundary_iou

GIOU_EPSILON = 1e-5
CIOU_EPSILON = 1e-10


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


@dataclass(frozen=True, kw_only=True)
class MaskScore:
    """How a predicted mask compares with the true one; areas in pixels that are not ignored.

    Attributes:
        intersection: Pixels that both cover.
        union: Pixels that one of them covers.
        iou: Their quotient, see ``iou``; of a random mask its expected value.
        target_area: Pixels of the true mask; 0 for an instruction without a target.
        predicted_area: Pixels of the predicted mask.
        boundary_iou: See ``boundary``; None if ``iou`` is an expected value.
    """

    intersection: int
    union: int
    iou: float
    target_area: int
    predicted_area: int
    boundary_iou: float | None = None


def score_masks(
    predictions: Tensor, targets: Tensor, ignores: Tensor | None = None
) -> list[MaskScore]:
    """Compare masks one by one.

    Args:
        predictions: Bool, shape (n, H, W).
        targets: Bool, shape (n, H, W).
        ignores: Pixels that are not counted, bool, shape (n, H, W).

    Raises:
        ValueError: If the shapes differ or a mask is not bool.
    """
    intersections, unions = intersection_and_union(predictions, targets, ignores)
    ours, theirs = predictions, targets
    if ignores is not None:
        ours, theirs = ours & ~ignores, theirs & ~ignores
    columns = (
        intersections,
        unions,
        iou(intersections, unions),
        theirs.sum(dim=(-2, -1)),
        ours.sum(dim=(-2, -1)),
        boundary_iou(predictions, targets, ignores),
    )
    names = ("intersection", "union", "iou", "target_area", "predicted_area", "boundary_iou")
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [MaskScore(**dict(zip(names, row, strict=True))) for row in rows]
