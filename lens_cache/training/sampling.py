"""Which images a training sees in which order: one source of images, or a mixture of several.

Draw number n of a training, over all its processes, follows from the seed and n alone. So no two
processes see the same draw, a resumed training goes on with exactly the draws it would have seen,
and neither depends on how many processes load them.
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

_BLOCK = 4096  # draws of which it is decided at a time where they come from


@dataclass(frozen=True)
class Draw:
    """An image and the queries that are asked of it, as indices in the plan."""

    image: int
    queries: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one process trains on of an endless stream of batches.

    Attributes:
        num_batches: Length of the whole stream, on each rank.
        seed: Decides every draw.
        rank: This process.
        world: Number of processes.
        start: Number of the first batch that is still to be seen.
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
        name: What they are called.
        rate: How often it is their turn, among several sources; only ratios matter.
        images: Their indices in the plan.
        queries: Of each image those that may be asked.
        shards: Of each image the shard it lies in.
    """

    name: str
    rate: float
    images: Sequence[int]
    queries: Sequence[Sequence[int]]
    shards: NDArray[np.int64]


def sources(store: Store, batch: BatchConfig) -> list[Source]:
    """Return what a training draws from: all images of its split, or each dataset of its mixture.

    Datasets of one group share its rate evenly, as in LISA.

    Raises:
        StoreError: If the split has no image.
        ConfigError: If a dataset of the mixture has no image in the split, or stands there twice.
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
                problem = "stands there twice" if name in found else "has no image in the split"
                raise ConfigError(
                    f"batch.mixture: {name} {problem}; the store {store.root} holds "
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
    """Return per image its queries in a split; all of them if no split is given."""
    wanted = plan.in_split(split)
    return [tuple(q for q in plan.query_range(image) if wanted[q]) for image in images]


class DrawSampler(Sampler[list[Draw]]):
    """A seeded stream of batches, the same however often it is interrupted.

    Whose turn it is, is drawn by the sources' rates. The images of a source come in passes, each a
    new permutation; of each image up to ``queries_per_image`` queries are drawn without
    replacement.

    Args:
        sources: What to draw from.
        batch: Images per batch, queries per image, and how far apart images may lie.
        share: This process's part; together all see every image of a source once per pass.
    """

    def __init__(self, sources: Sequence[Source], batch: BatchConfig, share: Share) -> None:
        self._sources, self._batch, self._share = sources, batch, share
        self._turns = _Turns([source.rate for source in sources], share.seed)
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """Return the length of the whole stream, wherever it starts."""
        return self._share.num_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the batches that are still to be seen."""
        share, size = self._share, self._batch.images
        for number in range(share.start, share.num_batches):
            yield [
                self._draw((number * size + place) * share.world + share.rank)
                for place in range(size)
            ]

    def _draw(self, number: int) -> Draw:
        """Return draw ``number`` of all ranks together."""
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
    """Whose turn each draw is, and how many draws of the same source came before it."""

    def __init__(self, rates: Sequence[float], seed: int) -> None:
        self._rates = np.asarray(rates, np.float64) / sum(rates)
        self._seed = seed
        self._before = [np.zeros(len(rates), np.int64)]  # per block
        self._number, self._block = -1, np.empty((0, 2), np.int64)

    def __getitem__(self, number: int) -> tuple[int, int]:
        wanted, place = divmod(number, _BLOCK)
        if wanted != self._number:
            while len(self._before) <= wanted:
                chosen = self._choose(len(self._before) - 1)
                counts = np.bincount(chosen, minlength=len(self._rates))
                self._before.append(self._before[-1] + counts)
            self._number, self._block = wanted, self._describe(wanted)
        which, earlier = self._block[place]
        return int(which), int(earlier)

    def _choose(self, block: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self._seed, block, 0, 2])
        return generator.choice(len(self._rates), size=_BLOCK, p=self._rates)

    def _describe(self, block: int) -> NDArray[np.int64]:
        """Return source and number of earlier draws of every draw of a block, (_BLOCK, 2)."""
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
        window: Mix the images of so many shards at a time, each shard once, so that what is read
            within a while lies together; all if not given.
        generator: Draws it.
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
    """Draw up to ``most`` queries without replacement, in their order."""
    chosen = generator.choice(len(queries), size=min(most, len(queries)), replace=False)
    return tuple(queries[i] for i in sorted(chosen))
