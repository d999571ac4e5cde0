"""Batches from a store, for training and evaluation: B images with a few questions each."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
    """The input of a step.

    Attributes:
        draws: The images and queries of the batch, as indices in the plan.
        features: Features of B images with Q questions in all.
        targets: Targets of the Q questions.
    """

    draws: tuple[Draw, ...]
    features: Features
    targets: Targets

    def to(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """Move to a device, and there cast the features to a floating-point dtype."""
        return Batch(self.draws, self.features.to(device, dtype), self.targets.to(device))

    def pin_memory(self) -> Batch:
        """Copy to pinned memory; ``DataLoader`` calls this if ``pin_memory`` is set."""
        return Batch(self.draws, self.features.pin_memory(), self.targets.pin_memory())


class FeatureDataset(Dataset[Any]):
    """Reads the features and masks of a draw; the keys are draws, not integers."""

    def __init__(self, store: Store, layer: int, loss: LossConfig) -> None:
        self.store = store
        self._layer = layer
        self._loss = loss

    def __getitem__(self, draw: Draw) -> tuple[Draw, ImageFeatures, Targets]:
        """Read one image with its drawn queries."""
        return self.item(draw, self.store.read(draw.image, draw.queries, self._layer))

    def __getitems__(self, draws: Sequence[Draw]) -> list[tuple[Draw, ImageFeatures, Targets]]:
        """Read a batch; behind a URL all its images at the same time."""
        if not self.store.is_remote:
            return [self[draw] for draw in draws]
        # Not the store's own threads: each image waits for requests that run there.
        with ThreadPoolExecutor(len(draws)) as pool:
            return list(pool.map(self.__getitem__, draws))

    def item(self, draw: Draw, features: ImageFeatures) -> tuple[Draw, ImageFeatures, Targets]:
        """Return a draw with its features and its targets."""
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
    """Return this process's part of the endless stream of training batches, in random access.

    Args:
        store: The store to read.
        layer: The cached layer.
        loss: The resolutions of the targets.
        batch: Size, split and order of the batches.
        share: This process's part.
        pin_memory: Yield batches in pinned memory.

    Raises:
        StoreError: If the split has no image.
        ConfigError: If the mixture does not fit the store, or the plan has no draws to replay.
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
        persistent_workers=batch.loader_workers > 0,
        **worker_options(store, batch, pin_memory),
    )


def evaluation_loader(
    store: Store,
    draws: Sequence[Draw],
    *,
    layer: int,
    loss: LossConfig,
    batch: BatchConfig,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Return batches of one image each; see ``evaluation_draws`` and ``training_loader``."""
    return DataLoader(
        FeatureDataset(store, layer, loss),
        batch_sampler=[[draw] for draw in draws],
        collate_fn=FeatureDataset.collate,
        **worker_options(store, batch, pin_memory),
    )


def worker_options(store: Store, batch: BatchConfig, pin_memory: bool) -> dict[str, Any]:
    """Return the arguments of a ``DataLoader`` over a store that do not depend on the order."""
    return {
        "num_workers": batch.loader_workers,
        "multiprocessing_context": store.worker_context if batch.loader_workers else None,
        "pin_memory": pin_memory,
    }


def evaluation_draws(store: Store, split: str | None, limit_images: int | None) -> list[Draw]:
    """Return one draw per image of a split, with all its queries in the split.

    Raises:
        StoreError: If the split has no image.
    """
    images = store.images(split, limit_images)
    queries = split_queries(store.plan, images, split)
    return [Draw(image, mine) for image, mine in zip(images, queries, strict=True)]
