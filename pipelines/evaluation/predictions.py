"""Score the masks of any method, read from a file, against a split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lens_cache.errors import DatasetError
from lens_cache.evaluation.ground_truth import case_of
from lens_cache.evaluation.metrics import score_masks
from lens_cache.evaluation.predictions import Prediction, read_predictions
from lens_cache.evaluation.scores import Sample
from lens_cache.evaluation.split import EvaluationSplit
from lens_cache.images import masks
from lens_cache.images.masks import Rle
from lens_cache.plan.planned import PlannedImage, PlannedQuery
from lens_cache.progress import Progress, no_progress
from lens_cache.store.io.files import replacing
from pipelines.evaluation.evaluate import summarise, write
from pipelines.evaluation.parts import Result
from pipelines.evaluation.report import Evaluation

_SHOWN = 3


def evaluate_predictions(
    file: Path, split: EvaluationSplit, folder: Path, progress: Progress = no_progress
) -> Evaluation:
    """Score a file of predictions and write the report to a folder.

    Args:
        file: JSON lines, one for each query of the split; see ``read_predictions``.
        split: The queries.
        folder: Output folder.
        progress: Called with the name of the step, images done and images in all.

    Raises:
        DatasetError: If the file cannot be read, a query has no prediction or a prediction no
            query, or a mask has another size than its image.
    """
    predictions = read_predictions(file)
    queries = [split.plan.query(query) for draw in split.draws for query in draw.queries]
    _require_same_ids(file, predictions, queries)
    results: list[Result] = []
    for done, draw in enumerate(split.draws, 1):
        case = case_of(split.plan, draw)
        mine = [predictions[query.query_id] for query in case.queries]
        rles = [_mask_of(file, one, case.image) for one in mine]
        ours = torch.from_numpy(np.stack([masks.decode(rle) for rle in rles]))
        scores = score_masks(ours, case.targets, case.ignores)
        results += [
            Result(Sample.of(query, case.image, score, score=one.score), rle)
            for query, score, one, rle in zip(case.queries, scores, mine, rles, strict=True)
        ]
        progress("score", done, len(split.draws))
    found = summarise(
        results, split, method=str(file), folder=folder, measure="score of the predictions"
    )
    write(found, results, split, {"predictions": str(file)})
    return found


def _mask_of(file: Path, prediction: Prediction, image: PlannedImage) -> Rle:
    """Return the mask of a prediction; an empty one if it has none."""
    if prediction.mask is None:
        return masks.empty(image.height, image.width)
    if prediction.mask["size"] != [image.height, image.width]:
        raise DatasetError(
            f"scoring {file}: the mask of {prediction.query_id} has the size "
            f"{prediction.mask['size']}, expected the [height, width] of its image, "
            f"{[image.height, image.width]}"
        )
    return prediction.mask


def _require_same_ids(
    file: Path, predictions: dict[str, Prediction], queries: Sequence[PlannedQuery]
) -> None:
    wanted = [query.query_id for query in queries]
    known = set(wanted)
    for problem, ids in (
        (
            "predictions of ids that the split does not have",
            [i for i in predictions if i not in known],
        ),
        ("queries of the split without a prediction", [i for i in wanted if i not in predictions]),
    ):
        if ids:
            shown = ", ".join(ids[:_SHOWN]) + (", ..." if len(ids) > _SHOWN else "")
            raise DatasetError(
                f"scoring {file}: expected one line for each of {len(wanted)} queries, found "
                f"{len(ids)} {problem} ({shown}); `lens-cache queries` lists the queries"
            )


def write_queries(split: EvaluationSplit, path: Path) -> int:
    """Write the queries of a split as JSON lines and return their number.

    A line has ``query_id``, ``image`` (relative to the root of the data), ``instruction``,
    ``width`` and ``height`` in pixels after EXIF orientation.
    """
    lines = []
    for draw in split.draws:
        image = split.plan.image(draw.image)
        for query in map(split.plan.query, draw.queries):
            entry = {
                "query_id": query.query_id,
                "image": image.path.as_posix(),
                "instruction": query.instruction,
                "width": image.width,
                "height": image.height,
            }
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write("".join(lines).encode())
    return len(lines)
