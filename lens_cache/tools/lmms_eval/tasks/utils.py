"""What the tasks ``reasonseg`` and ``refcoco_mask`` show, ask and score.

gIoU and cIoU are those of ``lens_cache.evaluation.metrics``, with LISA's semantics.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lens_cache.errors import DatasetError
from lens_cache.evaluation.metrics import CIOU_EPSILON, score_masks
from lens_cache.images import masks

Counts = dict[str, float]


def image(document: Mapping[str, Any]) -> list[Any]:
    """Return the image of a document."""
    return [document["image"].convert("RGB")]


def reasonseg_text(document: Mapping[str, Any]) -> str:
    """Return the instruction of a document of ReasonSeg."""
    return str(document["text"]).strip()


def reasonseg_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, Counts]:
    """Score the answer to a document of ReasonSeg, whose mask is a 2-D list."""
    return _score(np.asarray(document["mask"], dtype=np.bool_), results[0])


def refcoco_sentences(dataset: Any) -> Any:
    """Return one document for each sentence: benchmarks count sentences."""
    return dataset.map(
        _one_each, batched=True, batch_size=16, remove_columns=list(dataset.column_names)
    )


def _one_each(rows: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"image": [], "sentence": [], "segmentation": []}
    for picture, sentences, polygon in zip(
        rows["image"], rows["answer"], rows["segmentation"], strict=True
    ):
        for sentence in sentences:
            found["image"].append(picture)
            found["sentence"].append(sentence)
            found["segmentation"].append(polygon)
    return found


def refcoco_text(document: Mapping[str, Any]) -> str:
    """Return the sentence of a document, as LISA does: stripped and in lower case."""
    return str(document["sentence"]).strip().lower()


def refcoco_results(document: Mapping[str, Any], results: Sequence[str]) -> dict[str, Counts]:
    """Score the answer to a sentence, whose mask is a polygon [x0, y0, x1, y1, ...]."""
    width, height = document["image"].size
    target = masks.from_polygons([document["segmentation"]], height, width)
    return _score(masks.decode(target), results[0])


def giou(found: Iterable[Counts]) -> float:
    """Return the mean IoU."""
    values = [one["iou"] for one in found]
    return sum(values) / len(values)


def ciou(found: Iterable[Counts]) -> float:
    """Return the IoU of all pixels together."""
    counts = list(found)
    union = sum(one["union"] for one in counts)
    return sum(one["intersection"] for one in counts) / (union + CIOU_EPSILON)


def predicted_mask(answer: str, height: int, width: int) -> NDArray[np.bool_]:
    """Return the union of the masks of an answer; empty if it is no document with masks.

    Raises:
        DatasetError: If a mask is malformed or has another size.
    """
    try:
        document = json.loads(answer)
    except ValueError:
        document = None  # an answer in words
    parts = document.get("masks", []) if isinstance(document, dict) else []
    union = np.zeros((height, width), dtype=np.bool_)
    for part in parts:
        try:
            if [*part["size"]] != [height, width]:
                raise ValueError(f"size {part['size']}")
            union |= masks.decode(masks.from_counts(part["counts"], height, width))
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(
                f"scoring an answer: expected masks as COCO RLE of {height} x {width} pixels, "
                f"found {error}"
            ) from None
    return union


def _score(target: NDArray[np.bool_], answer: str) -> dict[str, Counts]:
    predicted = predicted_mask(answer, *target.shape)
    (found,) = score_masks(torch.from_numpy(predicted)[None], torch.from_numpy(target)[None])
    counts = {"intersection": found.intersection, "union": found.union, "iou": found.iou}
    return {"giou": counts, "ciou": counts}
