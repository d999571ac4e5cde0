"""Train on the very draws of LISA's sampler that a plan holds, one after another.

Batches follow the order of the plan, so that draw number n of all processes together is the n-th
draw that can be used; behind the last one comes the first again. Nothing is drawn anew.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from lens_cache.config.train import BatchConfig
from lens_cache.datasets.questions import is_training
from lens_cache.errors import ConfigError
from lens_cache.plan.plan import Plan
from lens_cache.store.store import Store
from lens_cache.training.sampling import Draw, Share

# What decides between images elsewhere, and has no say where every draw is laid down.
_NO_SAY = ("mixture", "window", "limit_images")


def replayed_draws(store: Store, batch: BatchConfig) -> list[Draw]:
    """Return the draws of a store's plan; those whose image could not be read are passed over.

    Raises:
        ConfigError: If the plan holds no draws, or the batch asks for anything else of them.
        StoreError: If no image of the store can be used.
    """
    _check(store, batch)
    there = set(store.images(None))
    draws = [draw for draw in _in_order(store.plan) if draw.image in there]
    if not draws:
        raise ConfigError(
            f"replaying the draws of the store {store.root}: no drawn image could be extracted; "
            "`lens-cache inspect` lists why"
        )
    return draws


def _in_order(plan: Plan) -> Iterator[Draw]:
    """Yield every draw that asks something; all its queries are of one image."""
    for index in range(plan.num_draws):
        queries = tuple(plan.drawn(index))
        if queries:
            yield Draw(plan.query_owner(queries[0]), queries)


def _check(store: Store, batch: BatchConfig) -> None:
    what = f"replaying the draws of the store {store.root}"
    if store.plan.draws is None:
        raise ConfigError(
            f"{what}: its plan holds none; extract with data.kind=lisa and data.lisa.draws=NUMBER, "
            "or set batch.order=random"
        )
    named = next((name for name in _NO_SAY if getattr(batch, name)), None)
    if batch.split is not None and not is_training(batch.split):
        named = "split"
    if named:
        raise ConfigError(
            f"{what}: they say already which images come when, batch.{named} cannot; leave it out, "
            "or set batch.order=random"
        )


class ReplaySampler(Sampler[list[Draw]]):
    """The draws as batches, the same however often the stream is interrupted.

    Args:
        draws: In their order; they start again when they end.
        size: Images in a batch.
        share: This process's part; no two processes see the same draw of a round.
    """

    def __init__(self, draws: list[Draw], size: int, share: Share) -> None:
        self._draws, self._size, self._share = draws, size, share

    def __len__(self) -> int:
        """Return the length of the whole stream, wherever it starts."""
        return self._share.num_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the batches that are still to be seen."""
        share = self._share
        for number in range(share.start, share.num_batches):
            places = number * self._size + np.arange(self._size)
            mine = (places * share.world + share.rank) % len(self._draws)
            yield [self._draws[place] for place in mine]
