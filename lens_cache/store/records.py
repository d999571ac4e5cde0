"""The content of a store as one record per image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_cache.errors import StoreError
from lens_cache.features.types import ImageFeatures
from lens_cache.plan.planned import PlannedImage, PlannedQuery

if TYPE_CHECKING:
    from lens_cache.store.store import Store


@dataclass(frozen=True)
class Record:
    """One image of a store.

    Attributes:
        image: Its row of the plan.
        queries: Its queries, with their instructions and masks.
        features: The features of the image and of these queries, in the same order.
    """

    image: PlannedImage
    queries: tuple[PlannedQuery, ...]
    features: ImageFeatures


def read_records(store: Store, split: str | None, layer: int | None) -> Iterator[Record]:
    """Check the arguments of ``Store.records``, then return its iterator."""
    chosen = store.layers[0] if layer is None else layer
    if chosen not in store.layers:
        raise StoreError(
            f"reading the store {store.root}: expected one of the layers {list(store.layers)}, "
            f"found {layer}"
        )
    return _records(store, store.images(split), split, chosen)


def _records(store: Store, images: list[int], split: str | None, layer: int) -> Iterator[Record]:
    included = store.plan.in_split(split)
    for image in images:
        queries = [query for query in store.plan.query_range(image) if included[query]]
        yield Record(
            image=store.plan.image(image),
            queries=tuple(store.plan.query(query) for query in queries),
            features=store.read(image, queries, layer),
        )
