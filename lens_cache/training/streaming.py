"""Training batches from the tars of a WebDataset store, read sequentially.

Network storage is fast at long reads and slow at many short ones. Every loader worker of every rank
reads whole tars and draws images from a shuffle buffer; each image comes with a few of its queries,
as in ``data``. The order of the tars, the draws from the buffer and the queries depend on the seed
alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lens_cache.config.train import BatchConfig, LossConfig
from lens_cache.errors import ConfigError
from lens_cache.features.types import ImageFeatures
from lens_cache.store.layout import array_name
from lens_cache.store.store import Store
from lens_cache.store.webdataset.stream import SampleStream, Values
from lens_cache.training.data import Batch, FeatureDataset, worker_options
from lens_cache.training.sampling import Draw, Share, choose_queries, split_queries
from lens_cache.training.targets import Targets


@dataclass(frozen=True)
class _Visit:
    """One visit to an image.

    Attributes:
        number: The pass over all tars.
        image: Index of the image in the plan.
        values: Its arrays, or None if its tar was skipped after a resume.
    """

    number: int
    image: int
    values: Values | None


class StreamedBatches(IterableDataset[Batch]):
    """A seeded stream of batches, identical however often it is interrupted.

    Each pass visits all tars in an order of its own. Tars are assigned in turn to the loader
    workers of all ranks, without end, so any number of tars serves any number of ranks. With the
    same number of ranks and workers, a stream that starts at batch i equals the rest of an
    uninterrupted one: earlier draws are repeated without reading, and the images that were in the
    buffer are read one by one.

    The arguments are those of ``data.training_loader``.
    """

    def __init__(
        self, store: Store, *, layer: int, loss: LossConfig, batch: BatchConfig, share: Share
    ) -> None:
        self._store = store
        self._layer = layer
        self._loss = loss
        self._batch = batch
        self._share = share
        self._dataset = FeatureDataset(store, layer, loss)
        self._names = (
            array_name(layer, "image_tokens"),
            array_name(layer, "text_tokens"),
            "image_embeddings",
        )
        self._stream = SampleStream(store.root, store.catalogue, self._names)
        images = store.images(batch.split, batch.limit_images)
        queries = split_queries(store.plan, images, batch.split)
        self._queries = dict(zip(images, queries, strict=True))
        self._shards: dict[int, list[int]] = {}
        for image in images:
            self._shards.setdefault(image // store.catalogue.shard_size, []).append(image)

    def __reduce__(self) -> tuple[Callable[..., StreamedBatches], tuple[Any, ...]]:
        """Pickle the arguments only: a spawned worker builds its own tables, which may be large."""
        make = partial(
            StreamedBatches,
            layer=self._layer,
            loss=self._loss,
            batch=self._batch,
            share=self._share,
        )
        return make, (self._store,)

    def __len__(self) -> int:
        """Return the length of the whole stream, including batches before ``share.start``."""
        return self._share.num_batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield this worker's part of the batches from ``share.start`` on.

        Raises:
            CorruptShardError: If a tar is damaged or truncated.
        """
        share = self._share
        info = get_worker_info()
        workers = info.num_workers if info else 1
        worker = info.id if info else 0
        # Worker w yields batches w, w + workers, ...; DataLoader reads worker 0 first, so shift
        # the workers by ``start``.
        role = (worker + share.start) % workers
        done = len(range(role, share.start, workers))
        wanted = len(range(role, share.num_batches, workers)) - done
        visits = self._shuffled(share.rank * workers + role, share.world * workers, done)
        for _ in range(wanted):
            items = [self._item(visit) for visit in islice(visits, self._batch.images)]
            yield FeatureDataset.collate(items)

    def _shuffled(self, consumer: int, consumers: int, batches_done: int) -> Iterator[_Visit]:
        """Yield the images of one worker in random order, after those of its first batches."""
        done = batches_done * self._batch.images
        size = self._batch.shuffle_buffer
        generator = np.random.default_rng([self._share.seed, consumer, 2])
        buffer: list[_Visit] = []
        drawn = 0
        skipped = done + size - 1 if done else 0
        for visit in self._visits(consumer, consumers, skipped):
            buffer.append(visit)
            if len(buffer) < size:
                continue
            place = int(generator.integers(size))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            chosen = buffer.pop()
            if drawn >= done:
                yield chosen
            drawn += 1

    def _visits(self, consumer: int, consumers: int, skipped: int) -> Iterator[_Visit]:
        """Yield the images of one worker in the order of its tars, without end.

        Tars that contain only images among the first ``skipped`` are not opened.
        """
        images_seen = 0
        for position in count(consumer, consumers):
            number, place = divmod(position, len(self._shards))
            generator = np.random.default_rng([self._share.seed, number])
            order = generator.permutation(sorted(self._shards))
            shard = int(order[place])
            images = self._shards[shard]
            images_seen += len(images)
            if images_seen <= skipped:
                yield from (_Visit(number, image, None) for image in images)
            else:
                samples = self._stream.read(shard, images)
                yield from (_Visit(number, image, values) for image, values in samples)

    def _item(self, visit: _Visit) -> tuple[Draw, ImageFeatures, Targets]:
        """Draw queries of an image; return them with features and targets."""
        generator = np.random.default_rng([self._share.seed, visit.number, visit.image, 3])
        most = self._batch.queries_per_image
        draw = Draw(visit.image, choose_queries(self._queries[visit.image], most, generator))
        if visit.values is None:
            return self._dataset[draw]
        return self._dataset.item(draw, self._features(draw, visit.values))

    def _features(self, draw: Draw, values: Values) -> ImageFeatures:
        """Return the features of a draw from the sample of its image."""
        reader = self._store.features
        image_tokens, text_tokens, embeddings = self._names
        text = reader.tensor(text_tokens, values[text_tokens])
        rows = [self._store.catalogue.rows_of(query) for query in draw.queries]
        return ImageFeatures(
            prefix=self._store.prefix(self._layer),
            image_tokens=reader.tensor(image_tokens, values[image_tokens]),
            text_tokens=[text[mine.start : mine.stop] for mine in rows],
            image_embedding=reader.tensor(embeddings, values[embeddings]),
        )


def require_stream(store: Store, batch: BatchConfig) -> None:
    """Refuse a store that cannot be streamed, or settings that need random access.

    Raises:
        ConfigError: If it is not a WebDataset store, or the batch has a mixture or a window.
    """
    if batch.mixture or batch.window:
        name = "mixture" if batch.mixture else "window"
        raise ConfigError(
            f"streaming the store {store.root}: batch.{name} needs random access; set "
            f"batch.order=random, or remove batch.{name}"
        )
    if store.manifest.format != "webdataset":
        raise ConfigError(
            f"streaming the store {store.root}: expected the format webdataset, found "
            f"{store.manifest.format}; run `lens-cache convert STORE DEST --format webdataset`, or "
            "set batch.order=random"
        )


def streaming_loader(
    store: Store,
    *,
    layer: int,
    loss: LossConfig,
    batch: BatchConfig,
    share: Share,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Return this process's part of the endless stream of training batches, from tars.

    Like ``data.training_loader``, in an order that reads each tar sequentially.

    Raises:
        ConfigError: As ``require_stream``.
        StoreError: If the split has no image.
    """
    require_stream(store, batch)
    batches = StreamedBatches(store, layer=layer, loss=loss, batch=batch, share=share)
    return DataLoader(
        batches,
        batch_size=None,
        persistent_workers=batch.loader_workers > 0,
        **worker_options(store, batch, pin_memory),
    )
