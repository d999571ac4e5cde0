"""Training and evaluation data from a store: a batch is B images with a few questions each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lens_cache import masks
from lens_cache.config import BatchConfig, LossConfig
from lens_cache.geometry import inside_image, mask_to_square
from lens_cache.losses import Targets
from lens_cache.masks import Rle
from lens_cache.plan_tables import PlannedQuery
from lens_cache.store.reader import Store
from lens_cache.types import Features, ImageFeatures


@dataclass(frozen=True)
class Draw:
    """An image and the queries that are asked of it, as indices in the plan."""

    image: int
    queries: tuple[int, ...]


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


class DrawSampler(Sampler[list[Draw]]):
    """A seeded stream of batches, the same however often it is interrupted.

    Images come in passes, each a new permutation; of each image up to ``queries_per_image`` queries
    are drawn without replacement. What batch number i holds follows from seed, rank and i alone, so
    a training that resumes at batch i goes on with exactly the batches it would have seen.

    Attributes:
        start: Number of the first batch to yield.
    """

    def __init__(
        self,
        images: Sequence[Sequence[int]],
        *,
        image_indices: Sequence[int],
        batch: BatchConfig,
        num_batches: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Describe the stream.

        Args:
            images: Per image the queries to draw from.
            image_indices: Per image its index in the plan.
            batch: Images per batch and queries per image.
            num_batches: Length of the whole stream, on each rank.
            seed: Decides every permutation and draw.
            rank: This process.
            world: Number of processes; together they see every image once per pass.
        """
        self.start = 0
        self._images, self._indices, self._batch = images, image_indices, batch
        self._num_batches, self._seed = num_batches, seed
        self._rank, self._world = rank, world
        self._pass: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        """Return the length of the whole stream, wherever it starts."""
        return self._num_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield batches from ``start`` on."""
        for number in range(self.start, self._num_batches):
            size = self._batch.images
            yield [
                self._draw((number * size + place) * self._world + self._rank)
                for place in range(size)
            ]

    def _draw(self, number: int) -> Draw:
        """Return draw ``number`` of all ranks together."""
        turn, place = divmod(number, len(self._images))
        if self._pass is None or self._pass[0] != turn:
            order = np.random.default_rng([self._seed, turn]).permutation(len(self._images))
            self._pass = (turn, order)
        image = int(self._pass[1][place])
        generator = np.random.default_rng([self._seed, turn, place, 1])
        most = self._batch.queries_per_image
        return Draw(self._indices[image], choose_queries(self._images[image], most, generator))


def choose_queries(
    queries: Sequence[int], most: int, generator: np.random.Generator
) -> tuple[int, ...]:
    """Draw up to ``most`` queries without replacement, in their order."""
    chosen = generator.choice(len(queries), size=min(most, len(queries)), replace=False)
    return tuple(queries[i] for i in sorted(chosen))


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


def make_targets(queries: Sequence[PlannedQuery], loss: LossConfig) -> Targets:
    """Bring the masks of queries about one image to what the losses compare with.

    Pixels to be ignored are not compared, nor is padding but by the attention loss.
    """
    attention, compared = [], []
    found: list[Tensor] = []
    valid: list[Tensor] = []
    for query in queries:
        target, ignore = query.target(), query.ignore()
        height, width = query.size
        attention.append(_in_square(target, loss.attention_size))
        compared.append(_counts(ignore, loss.attention_size))
        if loss.mask_size is None:
            found.append(torch.from_numpy(masks.decode(target)))
            ignored = masks.decode(ignore) if ignore else np.zeros((height, width), np.bool_)
            valid.append(torch.from_numpy(~ignored))
        else:
            found.append(_in_square(target, loss.mask_size))
            inside = torch.from_numpy(inside_image(width, height, loss.mask_size))
            valid.append(inside & _counts(ignore, loss.mask_size))
    square = loss.mask_size is not None
    return Targets(
        attention=torch.stack(attention),
        attention_valid=torch.stack(compared),
        masks=torch.stack(found) if square else found,
        valid=torch.stack(valid) if square else valid,
    )


def _in_square(mask: Rle, size: int) -> Tensor:
    return torch.from_numpy(mask_to_square(mask, size))


def _counts(ignore: Rle | None, size: int) -> Tensor:
    """Return which pixels of the square are not to be ignored, bool, (size, size)."""
    return torch.ones(size, size, dtype=torch.bool) if ignore is None else ~_in_square(ignore, size)


def split_queries(store: Store, images: Sequence[int], split: str | None) -> list[tuple[int, ...]]:
    """Return per image its queries in a split; all of them if no split is given."""
    plan = store.plan
    return [
        tuple(q for q in plan.query_range(i) if split is None or plan.query(q).split == split)
        for i in images
    ]


def training_loader(
    store: Store,
    *,
    layer: int,
    loss: LossConfig,
    batch: BatchConfig,
    num_batches: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    start: int = 0,
) -> DataLoader[Batch]:
    """Return the endless training stream, cut to ``num_batches`` batches on each rank.

    Args:
        store: Where the features come from.
        layer: The tapped layer.
        loss: How the masks are compared.
        batch: What a batch holds.
        num_batches: Length of the whole stream.
        seed: Decides every draw.
        rank: This process.
        world: Number of processes.
        start: Number of the first batch to yield.

    Raises:
        StoreError: If the split has no image.
    """
    images = store.images(batch.split, batch.limit_images)
    sampler = DrawSampler(
        split_queries(store, images, batch.split),
        image_indices=images,
        batch=batch,
        num_batches=num_batches,
        seed=seed,
        rank=rank,
        world=world,
    )
    sampler.start = start
    return DataLoader(
        FeatureDataset(store, layer, loss),
        batch_sampler=sampler,
        collate_fn=FeatureDataset.collate,
        num_workers=batch.loader_workers,
        persistent_workers=batch.loader_workers > 0,
        multiprocessing_context=store.worker_context if batch.loader_workers else None,
    )


def evaluation_draws(store: Store, split: str | None, limit_images: int | None) -> list[Draw]:
    """Return every query of a split once, image by image.

    Raises:
        StoreError: If the split has no image.
    """
    images = store.images(split, limit_images)
    queries = split_queries(store, images, split)
    return [Draw(image, mine) for image, mine in zip(images, queries, strict=True)]
