"""Diagnosis of a loss that is not finite: the questions that caused it, and their batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lens_cache.errors import TrainingError
from lens_cache.features.transfer import Arrival, Transfer
from lens_cache.store.store import Store
from lens_cache.training.data import Batch
from lens_cache.training.loss_tally import LOSSES
from lens_cache.training.losses import Losses

FAILED_BATCH = "failed_batch"
_SHOWN = 3


class NotFiniteError(TrainingError):
    """A loss is NaN or infinite.

    Attributes:
        batch: The batch as plain tensors, lists and numbers.
    """

    def __init__(self, message: str, batch: dict[str, Any]) -> None:
        super().__init__(message)
        self.batch = batch

    def keep(self, path: Path) -> TrainingError:
        """Write the batch to a file; return the error that names the file."""
        torch.save(self.batch, path)
        look = f"import torch; print(torch.load({str(path)!r}, weights_only=True)['queries'])"
        return TrainingError(f'{self}; the batch was saved: python -c "{look}"')


class FiniteLosses:
    """Finds the first batch of a step with a loss that is not finite.

    On a GPU a batch is looked at when the next one has been queued, so that the host does not wait
    for the work that it has just queued. One batch is kept until then.
    """

    def __init__(self) -> None:
        self._newest: tuple[Batch, Losses, Arrival] | None = None
        self._broken: tuple[Batch, Losses] | None = None

    def add(self, batch: Batch, losses: Losses, transfer: Transfer) -> None:
        """Add a batch and its losses; ``transfer`` copies from their device."""
        arrival = transfer.download({"finite": losses.each.isfinite().all()})
        self._look()
        self._newest = (batch, losses, arrival)

    def take(self) -> tuple[Batch, Losses] | None:
        """Return the first broken batch since the last call, None if there is none."""
        self._look()
        broken, self._broken = self._broken, None
        return broken

    def _look(self) -> None:
        if self._newest is None:
            return
        batch, losses, arrival = self._newest
        self._newest = None
        if self._broken is None and not arrival.wait()["finite"]:
            self._broken = (batch, losses)


def not_finite(step: int, batch: Batch, losses: Losses, store: Store) -> NotFiniteError:
    """Return the error for a batch with a loss that is not finite.

    Args:
        step: Optimizer step.
        batch: The batch.
        losses: Its losses.
        store: The store it was read from.
    """
    broken = ~losses.each.isfinite().all(dim=1)
    rows = [(draw.image, query) for draw in batch.draws for query in draw.queries]
    queries = [
        {
            "image_id": store.catalogue.image_id(image),
            "image_path": str(store.plan.image(image).path),
            "query_id": store.plan.query(query).query_id,
            "instruction": store.plan.query(query).instruction,
            "losses": dict(zip(LOSSES, each, strict=True)),
        }
        for (image, query), each in zip(rows, losses.each.tolist(), strict=True)
    ]
    failed = [query for query, bad in zip(queries, broken.tolist(), strict=True) if bad]
    shown = ", ".join(
        f"{query['query_id']} of image {query['image_id']}" for query in failed[:_SHOWN]
    )
    more = f" and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
    parts = ", ".join(f"{name} {getattr(losses, name).item():g}" for name in LOSSES)
    return NotFiniteError(
        f"training step {step}: the loss is not finite ({parts}) for query {shown}{more}; "
        + _advice(batch, store),
        {"step": step, "queries": queries, **_tensors(batch)},
    )


def _advice(batch: Batch, store: Store) -> str:
    """Return the cause, features or weights, and what to do."""
    features = batch.features
    for name, values in (
        ("hidden states of the image", features.image_tokens),
        ("SAM's embedding of the image", features.image_embeddings),
        ("hidden states of a question about the image", features.texts.tokens),
    ):
        broken = ~values.isfinite().flatten(1).all(dim=1)
        if broken.any():
            image = batch.draws[int(broken.nonzero()[0])].image
            return (
                f"the stored {name} {store.catalogue.image_id(image)} are not finite; run "
                f"`lens-cache verify {store.root} --recompute 16`"
            )
    return (
        "the stored features are finite, so the weights are not; lower optimizer.lr and train a "
        "new run"
    )


def _tensors(batch: Batch) -> dict[str, Any]:
    """Return a batch as plain tensors on the CPU."""
    features, targets = batch.features, batch.targets
    return {
        "draws": [[draw.image, list(draw.queries)] for draw in batch.draws],
        "features": {
            "prefix": features.prefix.cpu(),
            "image_tokens": features.image_tokens.cpu(),
            "text_tokens": features.texts.tokens.cpu(),
            "text_owner": features.texts.owner.cpu(),
            "image_embeddings": features.image_embeddings.cpu(),
        },
        "targets": {
            "attention": targets.attention.cpu(),
            "attention_valid": targets.attention_valid.cpu(),
            "masks": [mask.cpu() for mask in targets.masks],
            "valid": [mask.cpu() for mask in targets.valid],
        },
    }


def not_finite_elsewhere(step: int) -> TrainingError:
    """Return the error for a process with finite losses while those of another are not."""
    return TrainingError(
        f"training step {step}: the loss is not finite in another process, whose message names "
        "the queries"
    )


def gradient_not_finite(step: int) -> TrainingError:
    """Return the error for a gradient with a norm that is not finite, though the loss is finite."""
    return TrainingError(
        f"training step {step}: the norm of the gradient is not finite, though the loss is; no "
        "weight was changed and no checkpoint written; add --resume to go back to the last one, "
        "and if it happens again lower optimizer.lr"
    )
