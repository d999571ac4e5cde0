"""The order of images in training: one source of images, or a mixture of several.

Draw n of a training run, counted over all its processes, depends on the seed and n alone. So no two
processes see the same draw, a resumed run sees exactly the draws of an uninterrupted one, and
neither depends on the number of loader workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from lens_cache.config.train import BatchConfig
from lens_cache.errors import ConfigError
from lens_cache.plan.plan import Plan
from lens_cache.store.store import Store

_BLOCK = 4096  # draws whose sources are chosen together


@dataclass(frozen=True)
class Draw:
    """An image and some of its queries, as indices in the plan."""

    image: int
    queries: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Share:
    """The part of an endless stream of batches that one process trains on.

    Attributes:
        num_batches: Length of the whole stream, on each rank.
        seed: Seed of every draw.
        rank: Index of this process.
        world: Number of processes.
        start: Index of the first batch to yield; earlier ones were trained on before a resume.
    """

    num_batches: int
    seed: int
    rank: int = 0
    world: int = 1
    start: int = 0


@dataclass(frozen=True)
class Source:
    """Images to draw from.

    Attributes:
        name: Name of the source.
        rate: Relative frequency among several sources; only ratios matter.
        images: Indices of images in the plan.
        queries: Per image, the queries to draw from.
        shards: Per image, its shard.
    """

    name: str
    rate: float
    images: Sequence[int]
    queries: Sequence[Sequence[int]]
    shards: NDArray[np.int64]


def sources(store: Store, batch: BatchConfig) -> list[Source]:
    """Return the sources of a training run: all images of its split, or its mixture's datasets.

    Datasets of one group share its rate evenly, as in LISA.

    Raises:
        StoreError: If the split has no image.
        ConfigError: If a dataset of the mixture has no image in the split, or is listed twice.
    """
    images = store.images(batch.split, batch.limit_images)
    queries = split_queries(store.plan, images, batch.split)
    size = store.catalogue.shard_size
    if not batch.mixture:
        return [Source("all", 1.0, images, queries, np.asarray(images, np.int64) // size)]
    names = store.plan.queries["dataset"].to_pylist()
    found: dict[str, Source] = {}
    for group in batch.mixture:
        for name in group.datasets:
            mine = [tuple(q for q in row if names[q] == name) for row in queries]
            kept = [place for place, row in enumerate(mine) if row]
            if not kept or name in found:
                problem = "is listed twice" if name in found else "has no image in the split"
                raise ConfigError(
                    f"batch.mixture: {name} {problem}; the store {store.root} has "
                    f"{', '.join(sorted(set(names)))}"
                )
            chosen = [images[place] for place in kept]
            found[name] = Source(
                name,
                group.rate / len(group.datasets),
                chosen,
                [mine[place] for place in kept],
                np.asarray(chosen, np.int64) // size,
            )
    return list(found.values())


def split_queries(plan: Plan, images: Sequence[int], split: str | None) -> list[tuple[int, ...]]:
    """Return the queries of each image in a split; all of them if ``split`` is None."""
    wanted = plan.in_split(split)
    return [tuple(q for q in plan.query_range(image) if wanted[q]) for image in images]


class DrawSampler(Sampler[list[Draw]]):
    """A seeded stream of batches, identical however often it is interrupted.

    Each draw chooses a source by the rates. The images of a source come in passes, each a new
    permutation. Up to ``queries_per_image`` queries of an image are drawn without replacement.

    Args:
        sources: The sources.
        batch: Images per batch, queries per image, and the window of shards.
        share: This process's part; together all processes see every image once per pass.
    """

    def __init__(self, sources: Sequence[Source], batch: BatchConfig, share: Share) -> None:
        self._sources = sources
        self._batch = batch
        self._share = share
        self._turns = _Turns([source.rate for source in sources], share.seed)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """Return the length of the whole stream, including batches before ``share.start``."""
        return self._share.num_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the batches from ``share.start`` on."""
        share, size = self._share, self._batch.images
        for number in range(share.start, share.num_batches):
            yield [
                self._draw((number * size + place) * share.world + share.rank)
                for place in range(size)
            ]

    def _draw(self, number: int) -> Draw:
        """Return draw ``number``, counted over all ranks."""
        which, earlier = self._turns[number]
        source = self._sources[which]
        turn, place = divmod(earlier, len(source.images))
        image = int(self._order(which, turn)[place])
        generator = np.random.default_rng([self._share.seed, turn, place, 1 + 8 * which])
        most = self._batch.queries_per_image
        return Draw(source.images[image], choose_queries(source.queries[image], most, generator))

    def _order(self, which: int, turn: int) -> NDArray[np.int64]:
        """Return the order of a source's images in one pass."""
        if which not in self._orders or self._orders[which][0] != turn:
            generator = np.random.default_rng([self._share.seed, turn, which])
            order = shuffled(self._sources[which].shards, self._batch.window, generator)
            self._orders[which] = (turn, order)
        return self._orders[which][1]


class _Turns:
    """The source of each draw, and the number of earlier draws from the same source."""

    def __init__(self, rates: Sequence[float], seed: int) -> None:
        self._rates = np.asarray(rates, np.float64) / sum(rates)
        self._seed = seed
        # Draws from each source before each block.
        self._before = [np.zeros(len(rates), np.int64)]
        # The block read last.
        self._number = -1
        self._block = np.empty((0, 2), np.int64)

    def __getitem__(self, number: int) -> tuple[int, int]:
        wanted, place = divmod(number, _BLOCK)
        if wanted != self._number:
            while len(self._before) <= wanted:
                chosen = self._choose(len(self._before) - 1)
                counts = np.bincount(chosen, minlength=len(self._rates))
                self._before.append(self._before[-1] + counts)
            self._block = self._describe(wanted)
            self._number = wanted
        which, earlier = self._block[place]
        return int(which), int(earlier)

    def _choose(self, block: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self._seed, block, 0, 2])
        return generator.choice(len(self._rates), size=_BLOCK, p=self._rates)

    def _describe(self, block: int) -> NDArray[np.int64]:
        """Return source and number of earlier draws for each draw of a block, (_BLOCK, 2)."""
        chosen = self._choose(block)
        earlier = np.empty_like(chosen)
        for which, before in enumerate(self._before[block]):
            mine = np.flatnonzero(chosen == which)
            earlier[mine] = before + np.arange(len(mine))
        return np.stack([chosen, earlier], axis=1)


def shuffled(
    shards: NDArray[np.int64], window: int | None, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return a random order of images.

    Args:
        shards: The shard of each image.
        window: Shuffle this many shards at a time, each shard once, so that reads stay close
            together; all shards if None.
        generator: Random generator.
    """
    if window is None:
        return generator.permutation(len(shards))
    numbers = generator.permutation(np.unique(shards))
    parts = []
    for start in range(0, len(numbers), window):
        mine = np.flatnonzero(np.isin(shards, numbers[start : start + window]))
        parts.append(generator.permutation(mine))
    return np.concatenate(parts)


def choose_queries(
    queries: Sequence[int], most: int, generator: np.random.Generator
) -> tuple[int, ...]:
    """Draw up to ``most`` queries without replacement, in ascending position."""
    chosen = generator.choice(len(queries), size=min(most, len(queries)), replace=False)
    return tuple(queries[i] for i in sorted(chosen))
