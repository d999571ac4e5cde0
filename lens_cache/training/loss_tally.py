"""Sums of losses and keypoints by dataset, from which every logged mean is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lens_cache.config.train import LossConfig
from lens_cache.features.transfer import Transfer
from lens_cache.features.types import LensOutput
from lens_cache.plan.plan import Plan
from lens_cache.training.losses import Losses
from lens_cache.training.sampling import Draw
from lens_cache.training.targets import Targets

LOSSES = ("dice", "bce", "attention")
_COLUMNS = ("questions", *LOSSES, "keypoints", "keypoints_inside")


@dataclass(frozen=True)
class Sums:
    """Sums over some questions, by dataset.

    Attributes:
        datasets: Names of the datasets.
        values: Shape (datasets, 6): float32 on the device of the losses, float64 on the CPU after
            ``read``. The columns are the number of questions, the sums of their dice, BCE and
            attention losses, the number of their keypoints, and of those inside the true mask.
    """

    datasets: tuple[str, ...]
    values: Tensor

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.datasets, self.values + other.values)

    def read(self, norm: Tensor) -> tuple[Sums, float]:
        """Return the sums and the norm of the gradient on the host; waits for the device once."""
        values = torch.cat([self.values.flatten(), norm.to(self.values.dtype)[None]]).cpu().double()
        return Sums(self.datasets, values[:-1].view(self.values.shape)), float(values[-1])

    @property
    def questions(self) -> Tensor:
        """Number of questions, a scalar on the device of the values."""
        return self.values[:, 0].sum()

    @property
    def are_finite(self) -> bool:
        """Whether no loss was NaN or infinite."""
        return bool(self.values.isfinite().all())

    def losses(self, weights: LossConfig) -> dict[str, float]:
        """Return the mean losses over all questions; ``total`` is eq. 7."""
        means = (self.values.sum(dim=0) / self.questions).tolist()
        parts = {name: means[_COLUMNS.index(name)] for name in LOSSES}
        return {"total": sum(getattr(weights, name) * parts[name] for name in LOSSES), **parts}

    def losses_by_dataset(self) -> dict[str, float]:
        """Return the mean losses of each dataset with a question, as ``loss/dataset``."""
        return {
            f"{loss}/{name}": float(row[_COLUMNS.index(loss)] / row[0])
            for name, row in zip(self.datasets, self.values, strict=True)
            for loss in LOSSES
            if row[0]
        }

    def keypoints(self) -> dict[str, float]:
        """Return the keypoints per question, and the share of them inside the true mask."""
        sums = dict(zip(_COLUMNS, self.values.sum(dim=0).tolist(), strict=True))
        means = {"keypoints": sums["keypoints"] / sums["questions"]}
        if sums["keypoints"]:
            means["keypoints_inside"] = sums["keypoints_inside"] / sums["keypoints"]
        return means


class Tally:
    """Accumulates losses and keypoints on the device.

    Args:
        plan: The plan of the queries, which names their datasets.
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
        segmentation: LensOutput,
        targets: Targets,
        transfer: Transfer,
    ) -> None:
        """Add the Q questions of a batch; ``transfer`` copies to the device of the losses."""
        queries = [query for draw in draws for query in draw.queries]
        each = losses.each.float()
        owner = transfer.upload(torch.from_numpy(self._codes[queries]))
        kept = segmentation.keypoint_mask
        inside = kept & _inside(segmentation.keypoints, targets.attention)
        columns = [torch.ones_like(each[:, :1]), each, kept.sum(1, True), inside.sum(1, True)]
        if self._sums is None:
            self._sums = each.new_zeros(len(self.datasets), len(_COLUMNS))
        self._sums.index_add_(0, owner, torch.cat(columns, dim=1).detach())

    def take(self, over_processes: Callable[[Tensor], Tensor]) -> Sums:
        """Return the sums since the last call, over all processes, and reset them.

        Does not wait for the device.

        Args:
            over_processes: Sums a tensor over all processes.
        """
        assert self._sums is not None, "take() without add()"
        sums = over_processes(self._sums)
        self._sums = None
        return Sums(self.datasets, sums)


def _inside(points: Tensor, masks: Tensor) -> Tensor:
    """Return which points are inside masks of the square.

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
