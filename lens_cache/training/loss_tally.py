"""What a training says about its questions: sums by dataset, from which every mean follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lens_cache.config.train import LossConfig
from lens_cache.features.types import Segmentation
from lens_cache.plan.plan import Plan
from lens_cache.training.losses import Losses
from lens_cache.training.sampling import Draw
from lens_cache.training.targets import Targets

LOSSES = ("dice", "bce", "attention")
_COLUMNS = ("questions", *LOSSES, "keypoints", "keypoints_inside")


@dataclass(frozen=True)
class Sums:
    """Sums over some questions.

    Attributes:
        datasets: Names.
        values: Of each dataset the number of its questions, the sums of their losses, of their
            keypoints, and of those inside the true mask; float64 on the CPU, (datasets, columns).
    """

    datasets: tuple[str, ...]
    values: Tensor

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.datasets, self.values + other.values)

    @property
    def questions(self) -> float:
        """Return their number."""
        return float(self.values[:, 0].sum())

    def losses(self, weights: LossConfig) -> dict[str, float]:
        """Return the mean losses over all questions; ``total`` is eq. 7."""
        means = dict(zip(_COLUMNS, (self.values.sum(dim=0) / self.questions).tolist(), strict=True))
        parts = {name: means[name] for name in LOSSES}
        return {"total": sum(getattr(weights, name) * parts[name] for name in LOSSES), **parts}

    def losses_by_dataset(self) -> dict[str, float]:
        """Return the mean losses of every dataset that had a question, as ``loss/dataset``."""
        return {
            f"{loss}/{name}": float(row[column] / row[0])
            for name, row in zip(self.datasets, self.values, strict=True)
            for column, loss in enumerate(LOSSES, start=1)
            if row[0]
        }

    def keypoints(self) -> dict[str, float]:
        """Return how many keypoints a question keeps, and their share inside the true mask."""
        questions, *_, kept, inside = self.values.sum(dim=0).tolist()
        found = {"keypoints": kept / questions}
        return found | ({"keypoints_inside": inside / kept} if kept else {})


class Tally:
    """Adds up what a training says; the sums stay on the device until they are asked for.

    Args:
        plan: Tells the datasets of the queries.
    """

    def __init__(self, plan: Plan) -> None:
        names, codes = np.unique(plan.queries["dataset"].to_pylist(), return_inverse=True)
        self.datasets = tuple(str(name) for name in names)
        self._codes = codes
        self._sums: Tensor | None = None

    def add(
        self,
        draws: Sequence[Draw],
        losses: Losses,
        segmentation: Segmentation,
        targets: Targets,
    ) -> None:
        """Add the Q questions of a batch."""
        queries = [query for draw in draws for query in draw.queries]
        each = losses.each.float()
        owner = torch.from_numpy(self._codes[queries]).to(each.device, non_blocking=True)
        kept = segmentation.keypoint_mask
        inside = kept & _inside(segmentation.keypoints, targets.attention)
        columns = [torch.ones_like(each[:, :1]), each, kept.sum(1, True), inside.sum(1, True)]
        if self._sums is None:
            self._sums = each.new_zeros(len(self.datasets), len(_COLUMNS))
        self._sums.index_add_(0, owner, torch.cat(columns, dim=1).detach())

    def take(self, over_processes: Callable[[Tensor], Tensor]) -> Sums:
        """Return the sums since the last time, over all processes, and begin anew."""
        assert self._sums is not None, "nothing was added"
        sums, self._sums = over_processes(self._sums), None
        return Sums(self.datasets, sums.double().cpu())


def _inside(points: Tensor, masks: Tensor) -> Tensor:
    """Tell which points lie inside masks of the square.

    Args:
        points: (x, y) in normalised coordinates of the square, shape (Q, m, 2).
        masks: Bool, shape (Q, s, s).

    Returns:
        Bool, shape (Q, m).
    """
    side = masks.shape[-1]
    cells = (points * side).long().clamp(0, side - 1)
    flat = cells[..., 1] * side + cells[..., 0]
    return masks.flatten(1).gather(1, flat)
