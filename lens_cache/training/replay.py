"""Train on the draws of LISA's sampler that a plan stores, in their order.

Draw n, counted over all processes, is the n-th usable draw of the plan; after the last one the
first follows again. No query is drawn at training time.
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

# Settings that choose images in other orders; here the plan fixes every draw.
_IGNORED = ("mixture", "window", "limit_images")


def replayed_draws(store: Store, batch: BatchConfig) -> list[Draw]:
    """Return the draws of a store's plan; skip those of images that were not extracted.

    Raises:
        ConfigError: If the plan has no draws, or a setting contradicts them.
        StoreError: If the store has no usable image.
    """
    _check(store, batch)
    usable = set(store.images(None))
    draws = [draw for draw in _in_order(store.plan) if draw.image in usable]
    if not draws:
        raise ConfigError(
            f"replaying the draws of the store {store.root}: no drawn image could be extracted; "
            "`lens-cache inspect` lists why"
        )
    return draws


def _in_order(plan: Plan) -> Iterator[Draw]:
    """Yield every draw that has a query; all its queries belong to one image."""
    for index in range(plan.num_draws):
        queries = tuple(plan.drawn(index))
        if queries:
            yield Draw(plan.query_owner(queries[0]), queries)


def _check(store: Store, batch: BatchConfig) -> None:
    doing = f"replaying the draws of the store {store.root}"
    if store.plan.draws is None:
        raise ConfigError(
            f"{doing}: its plan has none; extract with data.kind=lisa and data.lisa.draws=NUMBER, "
            "or set batch.order=random"
        )
    named = next((name for name in _IGNORED if getattr(batch, name)), None)
    if batch.split is not None and not is_training(batch.split):
        named = "split"
    if named:
        raise ConfigError(
            f"{doing}: the plan fixes every draw, so batch.{named} cannot be used; remove it, or "
            "set batch.order=random"
        )


class ReplaySampler(Sampler[list[Draw]]):
    """The draws as batches, identical however often the stream is interrupted.

    Args:
        draws: In their order; repeated without end.
        size: Images in a batch.
        share: This process's part; no two processes see the same draw of a pass.
    """

    def __init__(self, draws: list[Draw], size: int, share: Share) -> None:
        self._draws = draws
        self._size = size
        self._share = share

    def __len__(self) -> int:
        """Return the length of the whole stream, including batches before ``share.start``."""
        return self._share.num_batches

    def __iter__(self) -> Iterator[list[Draw]]:
        """Yield the batches from ``share.start`` on."""
        share = self._share
        for number in range(share.start, share.num_batches):
            places = number * self._size + np.arange(self._size)
            mine = (places * share.world + share.rank) % len(self._draws)
            yield [self._draws[place] for place in mine]
