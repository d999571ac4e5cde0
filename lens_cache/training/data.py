"""Training and evaluation data from a store: a batch is B images with a few questions each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from lens_cache.config.train import BatchConfig, LossConfig
from lens_cache.features.types import Features, ImageFeatures
from lens_cache.store.store import Store
from lens_cache.training.replay import ReplaySampler, replayed_draws
from lens_cache.training.sampling import Draw, DrawSampler, Share, sources, split_queries
from lens_cache.training.targets import Targets, make_targets


@dataclass(frozen=True)
class Batch:
    """What a step sees.

    Attributes:
        draws: Where the batch comes from.
        features: B images, Q questions.
        targets: What the losses compare with, for the Q questions.
    """

    draws: tuple[Draw, ...]
    features: Features
    targets: Targets

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Move to a device; features come to a floating-point precision there."""
        return Batch(self.draws, self.features.to(device, dtype), self.targets.to(device))

    def pin_memory(self) -> Batch:
        """Copy to memory from which a GPU can fetch by itself; the ``DataLoader`` asks for it."""
        return Batch(self.draws, self.features.pin_memory(), self.targets.pin_memory())


class FeatureDataset(Dataset[Any]):
    """Reads a draw's features and masks; the sampler decides what is drawn."""

    def __init__(self, store: Store, layer: int, loss: LossConfig) -> None:
        self.store, self._layer, self._loss = store, layer, loss

    def __getitem__(self, draw: Draw) -> tuple[Draw, ImageFeatures, Targets]:
        """Read one image with its drawn queries."""
        return self.item(draw, self.store.read(draw.image, draw.queries, self._layer))

    def item(self, draw: Draw, features: ImageFeatures) -> tuple[Draw, ImageFeatures, Targets]:
        """Add the targets to a draw's features."""
        queries = [self.store.plan.query(query) for query in draw.queries]
        return draw, features, make_targets(queries, self._loss)

    @staticmethod
    def collate(items: Sequence[tuple[Draw, ImageFeatures, Targets]]) -> Batch:
        """Batch several images."""
        return Batch(
            draws=tuple(draw for draw, _, _ in items),
            features=Features.stack([features for _, features, _ in items]),
            targets=Targets.concatenate([targets for _, _, targets in items]),
        )


def training_loader(
    store: Store,
    *,
    layer: int,
    loss: LossConfig,
    batch: BatchConfig,
    share: Share,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Return this process's share of the endless training stream.

    Args:
        store: Where the features come from.
        layer: The tapped layer.
        loss: How the masks are compared.
        batch: What a batch holds.
        share: Which batches.
        pin_memory: Hand batches over in memory from which a GPU can fetch by itself.

    Raises:
        StoreError: If the split has no image.
        ConfigError: If the mixture does not fit the store, or it has no draws to replay.
    """
    sampler = (
        ReplaySampler(replayed_draws(store, batch), batch.images, share)
        if batch.order == "draws"
        else DrawSampler(sources(store, batch), batch, share)
    )
    return DataLoader(
        FeatureDataset(store, layer, loss),
        batch_sampler=sampler,
        collate_fn=FeatureDataset.collate,
        num_workers=batch.loader_workers,
        persistent_workers=batch.loader_workers > 0,
        pin_memory=pin_memory,
        multiprocessing_context=store.worker_context if batch.loader_workers else None,
    )


def evaluation_draws(store: Store, split: str | None, limit_images: int | None) -> list[Draw]:
    """Return every query of a split once, image by image.

    Raises:
        StoreError: If the split has no image.
    """
    images = store.images(split, limit_images)
    queries = split_queries(store.plan, images, split)
    return [Draw(image, mine) for image, mine in zip(images, queries, strict=True)]
