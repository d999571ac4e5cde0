"""Training data from the tars of a WebDataset store, each read from its beginning to its end.

Storage behind a network likes long reads and dislikes many short ones. Here every loader process of
every rank reads whole tars and draws images from a buffer that it keeps full of them; an image
still comes with a few of its queries, as in ``data``. Which tar is read when, what the buffer gives
and which queries are drawn follow from the seed alone.
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
from lens_cache.training.data import Batch, FeatureDataset
from lens_cache.training.sampling import Draw, Share, choose_queries, split_queries
from lens_cache.training.targets import Targets


@dataclass(frozen=True)
class _Turn:
    """An image's turn: in which pass, and its features unless its tar was passed over."""

    turn: int
    image: int
    values: Values | None


class StreamedBatches(IterableDataset[Batch]):
    """A seeded stream of batches, the same however often it is interrupted.

    The tars of one pass after another, each pass in an order of its own, are dealt out in turn to
    all loader processes of all ranks; so every rank has as many batches as it needs, whatever the
    number of tars. With the same number of ranks and processes a stream that starts at batch i goes
    on exactly as an uninterrupted one: it reckons what was drawn before without reading it, opens
    the tar that comes next, and reads what lay in the buffer one by one.

    The arguments are those of ``data.training_loader``.
    """

    def __init__(
        self, store: Store, *, layer: int, loss: LossConfig, batch: BatchConfig, share: Share
    ) -> None:
        self._store, self._layer, self._loss = store, layer, loss
        self._batch, self._share = batch, share
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
        """Let a loader process that does not fork make its own tables: they may be large."""
        make = partial(
            StreamedBatches,
            layer=self._layer,
            loss=self._loss,
            batch=self._batch,
            share=self._share,
        )
        return make, (self._store,)

    def __len__(self) -> int:
        """Return the length of the whole stream, wherever it starts."""
        return self._share.num_batches

    def __iter__(self) -> Iterator[Batch]:
        """Yield this process's part of the batches that are still to be seen.

        Raises:
            CorruptShardError: If a tar is damaged or ends too early.
        """
        share, info = self._share, get_worker_info()
        processes, process = (info.num_workers, info.id) if info else (1, 0)
        # Batch i is the business of process i; the loader asks the first process for batch start.
        role = (process + share.start) % processes
        behind = len(range(role, share.start, processes))
        wanted = len(range(role, share.num_batches, processes)) - behind
        turns = self._shuffled(share.rank * processes + role, share.world * processes, behind)
        for _ in range(wanted):
            items = [self._item(turn) for turn in islice(turns, self._batch.images)]
            yield FeatureDataset.collate(items)

    def _shuffled(self, consumer: int, consumers: int, batches_behind: int) -> Iterator[_Turn]:
        """Yield one process's images in random order, but for those of its first batches."""
        behind, size = batches_behind * self._batch.images, self._batch.shuffle_buffer
        generator = np.random.default_rng([self._share.seed, consumer, 2])
        buffer: list[_Turn] = []
        drawn = 0
        for turn in self._turns(consumer, consumers, passed=behind + size - 1 if behind else 0):
            buffer.append(turn)
            if len(buffer) < size:
                continue
            place = int(generator.integers(size))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            chosen = buffer.pop()
            if drawn >= behind:
                yield chosen
            drawn += 1

    def _turns(self, consumer: int, consumers: int, passed: int) -> Iterator[_Turn]:
        """Yield one process's images as they lie in its tars, without end.

        Tars that hold nothing but the first ``passed`` images are not opened.
        """
        number = 0
        for position in count(consumer, consumers):
            turn, place = divmod(position, len(self._shards))
            generator = np.random.default_rng([self._share.seed, turn])
            order = generator.permutation(sorted(self._shards))
            shard = int(order[place])
            images = self._shards[shard]
            number += len(images)
            if number <= passed:
                yield from (_Turn(turn, image, None) for image in images)
            else:
                samples = self._stream.read(shard, images)
                yield from (_Turn(turn, image, values) for image, values in samples)

    def _item(self, turn: _Turn) -> tuple[Draw, ImageFeatures, Targets]:
        """Return what one image adds to a batch."""
        generator = np.random.default_rng([self._share.seed, turn.turn, turn.image, 3])
        most = self._batch.queries_per_image
        draw = Draw(turn.image, choose_queries(self._queries[turn.image], most, generator))
        if turn.values is None:
            return self._dataset[draw]
        return self._dataset.item(draw, self._features(draw, turn.values))

    def _features(self, draw: Draw, values: Values) -> ImageFeatures:
        """Return the features of a draw out of its image's sample."""
        reader, (image_tokens, text_tokens, embeddings) = self._store.features, self._names
        text = reader.tensor(text_tokens, values[text_tokens])
        rows = [self._store.catalogue.rows_of(query) for query in draw.queries]
        return ImageFeatures(
            prefix=self._store.prefix(self._layer),
            image_tokens=reader.tensor(image_tokens, values[image_tokens]),
            text_tokens=[text[mine.start : mine.stop] for mine in rows],
            image_embedding=reader.tensor(embeddings, values[embeddings]),
        )


def require_stream(store: Store, batch: BatchConfig) -> None:
    """Refuse a store that cannot be streamed, or a batch that a stream cannot give.

    Raises:
        ConfigError: If it holds no tars, or the batch asks for a mixture.
    """
    if batch.mixture or batch.window:
        name = "mixture" if batch.mixture else "window"
        raise ConfigError(
            f"streaming the store {store.root}: batch.{name} needs any image at any time; set "
            f"batch.order=random, or leave batch.{name} out"
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
    """Return this process's share of the endless training stream out of tars.

    Does what ``data.training_loader`` does, in an order that reads tars from end to end.

    Raises:
        ConfigError: If the store holds no tars, or the batch asks for a mixture.
        StoreError: If the split has no image.
    """
    require_stream(store, batch)
    batches = StreamedBatches(store, layer=layer, loss=loss, batch=batch, share=share)
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=batch.loader_workers,
        multiprocessing_context=store.worker_context if batch.loader_workers else None,
        persistent_workers=batch.loader_workers > 0,
        pin_memory=pin_memory,
    )
