"""One image of a store with its queries and features."""

from __future__ import annotations

from dataclasses import dataclass

from lens_cache.features.types import ImageFeatures
from lens_cache.plan.planned import PlannedImage, PlannedQuery


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
