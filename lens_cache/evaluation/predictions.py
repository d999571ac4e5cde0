"""Predicted masks in a file, one JSON line for each query: the exchange format with other methods.

    {"query_id": "3f0c...", "mask": {"size": [480, 640], "counts": "..."}, "score": 0.93}

``mask`` is a COCO run-length encoding in the pixels of the image, or null for an empty mask, whose
size is then given by the query; ``score`` may be missing. Lines in the form of lmms-eval have
``masks``, a list of encodings whose union counts, and ``scores``, whose highest counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lens_cache.datasets.base import brief
from lens_cache.errors import DatasetError
from lens_cache.images import masks
from lens_cache.images.masks import Rle
from lens_cache.store.io.files import replacing

_KEYS = {"query_id", "mask", "score", "masks", "boxes", "scores"}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A predicted mask.

    Attributes:
        query_id: Id of the query.
        mask: The mask in the pixels of the image; None if it is empty and its size is not known.
        score: The confidence of the method, higher is better; None if it has none.
    """

    query_id: str
    mask: Rle | None
    score: float | None = None


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions; the file is complete or not there."""
    with replacing(path) as file:
        for one in predictions:
            entry = {"query_id": one.query_id, "mask": one.mask, "score": one.score}
            file.write(json.dumps(entry).encode() + b"\n")


def read_predictions(path: Path) -> dict[str, Prediction]:
    """Read a file of predictions; returns them by query id, in the order of the file.

    Raises:
        DatasetError: If the file cannot be read, a line is no prediction, or an id occurs twice.
    """
    found: dict[str, Prediction] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    one = _parse(line)
                    if one.query_id in found:
                        raise ValueError(f"a second line for the query {brief(one.query_id)}")
                except ValueError as error:
                    raise DatasetError(f"reading {path}, line {number}: {error}") from None
                found[one.query_id] = one
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"reading predictions from {path}: {error}") from None
    return found


def _parse(line: str) -> Prediction:
    """Raise ValueError, whose message continues "reading FILE, line N:"."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object, found {brief(entry)}")
    if unknown := sorted(set(entry) - _KEYS):
        raise ValueError(f"expected the keys {', '.join(sorted(_KEYS))}, found {unknown[0]!r}")
    name = entry.get("query_id")
    if not isinstance(name, str) or not name:
        raise ValueError(f"expected a query_id, found {brief(name)}")
    if ("mask" in entry) == ("masks" in entry):
        raise ValueError('expected one of "mask" and "masks"')
    if "mask" in entry:
        mask = None if entry["mask"] is None else _rle(entry["mask"])
        return Prediction(query_id=name, mask=mask, score=_score(entry.get("score")))
    if not isinstance(entry["masks"], list):
        raise ValueError(f"expected a list of masks, found {brief(entry['masks'])}")
    parts = [_rle(part) for part in entry["masks"]]
    scores = entry.get("scores")
    if scores is not None and not isinstance(scores, list):
        raise ValueError(f"expected a list of scores, found {brief(scores)}")
    known = [score for score in map(_score, scores or []) if score is not None]
    return Prediction(
        query_id=name,
        mask=masks.merge(parts) if parts else None,
        score=max(known, default=None),
    )


def _rle(value: Any) -> Rle:
    size = value.get("size") if isinstance(value, dict) else None
    if (
        not isinstance(size, list)
        or len(size) != 2
        or not all(type(side) is int and side > 0 for side in size)
    ):
        raise ValueError(
            f'expected a mask {{"size": [height, width], "counts": ...}}, found {brief(value)}'
        )
    counts = value.get("counts")
    if not isinstance(counts, str | list):
        raise ValueError(f"expected counts as a string or a list, found {brief(counts)}")
    return masks.from_counts(counts, *size)


def _score(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"expected a finite score, found {brief(value)}")
    return float(value)
