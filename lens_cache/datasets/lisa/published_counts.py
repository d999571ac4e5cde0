"""Published numbers of images and queries of a set, from ``assets/published_counts.yaml``."""

from __future__ import annotations

from functools import cache

import yaml
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from lens_cache.assets import PUBLISHED_COUNTS
from lens_cache.datasets.lisa.sets import SetName


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PublishedCount:
    """Published numbers of a split; a number that is not published is None.

    Attributes:
        set: Name of the set.
        split: Its split.
        variant: Its variant; empty for any.
        images: Number of images.
        queries: Number of queries: sentences of a referring set, first questions of ReasonSeg's val
            and test.
        source: Where the numbers are published.
        verified: Whether the numbers were compared with the source.
    """

    set: str
    split: str
    variant: str = ""
    images: int | None = None
    queries: int | None = None
    source: str
    verified: bool


def published_count(name: SetName) -> PublishedCount | None:
    """Return the published numbers of a set; None if there are none."""
    for count in _counts():
        same = (count.set, count.split) == (name.name, name.split)
        if same and (count.variant in ("", name.variant) or not name.variant):
            return count
    return None


@cache
def _counts() -> tuple[PublishedCount, ...]:
    text = PUBLISHED_COUNTS.read_text(encoding="utf-8")
    return TypeAdapter(tuple[PublishedCount, ...]).validate_python(yaml.safe_load(text))
