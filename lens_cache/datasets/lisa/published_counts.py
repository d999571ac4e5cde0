"""How many images and queries a set has, as published: ``assets/published_counts.yaml``."""

from __future__ import annotations

from functools import cache

import yaml
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from lens_cache.assets import PUBLISHED_COUNTS
from lens_cache.datasets.lisa.sets import SetName


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PublishedCount:
    """What a publication says of a split; what it does not say is None.

    Attributes:
        set: Name of the set.
        split: Its split.
        variant: The variant that is meant; any if empty.
        images: Images.
        queries: Queries: sentences of a referring set, first questions of ReasonSeg's val and test.
        source: Who says so.
        verified: Whether the source was looked at, or the number is from memory.
    """

    set: str
    split: str
    variant: str = ""
    images: int | None = None
    queries: int | None = None
    source: str
    verified: bool


def published_count(name: SetName) -> PublishedCount | None:
    """Return what is published about a set, if anything."""
    for count in _counts():
        same = (count.set, count.split) == (name.name, name.split)
        if same and (count.variant in ("", name.variant) or not name.variant):
            return count
    return None


@cache
def _counts() -> tuple[PublishedCount, ...]:
    text = PUBLISHED_COUNTS.read_text(encoding="utf-8")
    return TypeAdapter(tuple[PublishedCount, ...]).validate_python(yaml.safe_load(text))
