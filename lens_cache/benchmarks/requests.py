"""Requests to an agent with the route that each should take: the file of the routing benchmark.

One JSON line each:

    {"image": "a.png", "request": "Mark the cup.", "route": "segmentation", "tier": "explicit",
     "mask": {"size": [480, 640], "counts": "..."}}
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from lens_cache.agent.routing import Route
from lens_cache.datasets.base import brief, is_text, relative_path
from lens_cache.errors import DatasetError
from lens_cache.images import masks
from lens_cache.images.masks import Rle

TIERS = ("dialogue", "explicit", "reasoning", "mixed")


@dataclass(frozen=True)
class RoutedRequest:
    """A request.

    Attributes:
        image: The image file, relative to the folder of the list.
        text: The request.
        route: The route that it should take.
        tier: One of ``TIERS``: how the request says what it wants.
        mask: The mask that is wanted, in the pixels of the image; None if it is not known.
    """

    image: PurePosixPath
    text: str
    route: Route
    tier: str
    mask: Rle | None


def read_requests(path: Path) -> list[RoutedRequest]:
    """Read a list of requests.

    Raises:
        DatasetError: If the file cannot be read, has no request, or a line is no request.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"reading requests from {path}: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                found.append(_parse(json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"reading {path}, line {number}: {error}") from None
    if not found:
        raise DatasetError(f"reading {path}: expected a request on each line, found none")
    return found


def _parse(entry: Any) -> RoutedRequest:
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object, found {brief(entry)}")
    if not is_text(entry.get("request")):
        raise ValueError(f"expected a request, found {brief(entry.get('request'))}")
    for key, known in (("route", get_args(Route)), ("tier", TIERS)):
        if entry.get(key) not in known:
            raise ValueError(
                f"expected a {key} of {', '.join(known)}, found {brief(entry.get(key))}"
            )
    mask = entry.get("mask")
    if mask is not None:
        if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str):
            raise ValueError(f"expected a mask in COCO RLE, found {brief(mask)}")
        height, width = mask.get("size") or (0, 0)
        mask = masks.from_counts(mask["counts"], height, width)
    return RoutedRequest(
        image=relative_path(entry.get("image")),
        text=entry["request"],
        route=entry["route"],
        tier=entry["tier"],
        mask=mask,
    )
