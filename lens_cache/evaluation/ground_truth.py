"""Images of a split with the true masks of their queries, to score predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lens_cache.evaluation.metrics import intersection_and_union, iou, score_masks
from lens_cache.evaluation.scores import Sample
from lens_cache.images import masks
from lens_cache.plan.plan import Plan
from lens_cache.plan.planned import PlannedImage, PlannedQuery
from lens_cache.progress import Progress
from lens_cache.store.store import Store
from lens_cache.training.data import evaluation_draws
from lens_cache.training.sampling import Draw


@dataclass(frozen=True)
class Case:
    """One image with its queries; ``targets`` and ``ignores`` are bool masks, (Q, H, W)."""

    draw: Draw
    queries: list[PlannedQuery]
    image: PlannedImage
    targets: Tensor
    ignores: Tensor

    def with_target(self) -> Case:
        """Return the same image with only the queries that have a target."""
        kept = self.targets.flatten(1).any(dim=1)
        places = kept.nonzero()[:, 0].tolist()
        return Case(
            draw=Draw(self.draw.image, tuple(self.draw.queries[place] for place in places)),
            queries=[self.queries[place] for place in places],
            image=self.image,
            targets=self.targets[kept],
            ignores=self.ignores[kept],
        )

    def samples(self, predictions: Tensor) -> list[Sample]:
        """Score one bool mask per query, (Q, H, W)."""
        results = score_masks(predictions, self.targets, self.ignores)
        return [
            Sample.of(query, self.image, result)
            for query, result in zip(self.queries, results, strict=True)
        ]

    def ious(self, predictions: Tensor) -> Tensor:
        """Return the IoU of bool masks, (..., Q, H, W) to (..., Q)."""
        targets = self.targets.expand_as(predictions)
        ignores = self.ignores.expand_as(predictions)
        return iou(*intersection_and_union(predictions, targets, ignores))


def cases(
    store: Store, split: str | None, limit: int | None, progress: Progress | None, what: str
) -> Iterator[Case]:
    """Yield every usable image of a split; ``what`` is the name of the step for ``progress``.

    Raises:
        StoreError: If the split is empty.
    """
    draws = evaluation_draws(store, split, limit)
    for done, draw in enumerate(draws, 1):
        yield case_of(store.plan, draw)
        if progress is not None:
            progress(what, done, len(draws))


def case_of(plan: Plan, draw: Draw) -> Case:
    """Return an image of a plan with its true masks."""
    image = plan.image(draw.image)
    queries = [plan.query(query) for query in draw.queries]
    nothing = masks.empty(image.height, image.width)
    return Case(
        draw=draw,
        queries=queries,
        image=image,
        targets=stack([query.target() for query in queries]),
        ignores=stack([query.ignore() or nothing for query in queries]),
    )


def stack(rles: Sequence[masks.Rle]) -> Tensor:
    """Decode masks of one size; bool, (n, H, W)."""
    return torch.from_numpy(np.stack([masks.decode(rle) for rle in rles]))
