"""Predicted and true masks at the resolution of each image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lens_cache.evaluation.confidence import Measure, measures_of
from lens_cache.evaluation.metrics import score_masks
from lens_cache.evaluation.scores import Sample
from lens_cache.features.types import LensOutput
from lens_cache.images import masks
from lens_cache.images.geometry import logits_to_image
from lens_cache.plan.plan import Plan
from lens_cache.training.sampling import Draw


@dataclass(frozen=True)
class MaskPair:
    """One query's masks in the pixels of its image.

    Attributes:
        query: Index of the query in the plan.
        index: Its index among the questions of the batch.
        prediction: Predicted mask, bool (H, W).
        truth: True mask, bool (H, W).
        ignore: Pixels that are not counted, bool (H, W), or None.
        measures: How much the prediction can be trusted, scalars; see ``confidence``.
    """

    query: int
    index: int
    prediction: Tensor
    truth: Tensor
    ignore: Tensor | None
    measures: dict[Measure, Tensor]


def masks_of(
    plan: Plan, side: int, draws: Sequence[Draw], output: LensOutput, threshold: float
) -> Iterator[MaskPair]:
    """Yield predicted and true masks of every question of a batch, in order.

    Args:
        plan: The plan of the queries.
        side: Side of the square frame in pixels.
        draws: The batch's images and queries.
        output: The output of the model.
        threshold: Probability above which a pixel is foreground.
    """
    assert output.quality is not None
    index, logit = 0, threshold_logit(threshold)
    for draw in draws:
        image = plan.image(draw.image)
        for query in draw.queries:
            planned = plan.query(query)
            ignore = planned.ignore()
            logits = logits_to_image(
                output.low_res_logits[index],
                width=image.width,
                height=image.height,
                side=side,
            )
            yield MaskPair(
                query=query,
                index=index,
                prediction=logits > logit,
                truth=_tensor(planned.target(), logits.device),
                ignore=None if ignore is None else _tensor(ignore, logits.device),
                measures=measures_of(output.quality[index], logits, logit),
            )
            index += 1


def threshold_logit(probability: float) -> float:
    """Return the logit above which a pixel is foreground."""
    return math.log(probability / (1.0 - probability))


def _tensor(rle: masks.Rle, device: torch.device) -> Tensor:
    return torch.from_numpy(masks.decode(rle)).to(device)


def sample_of(plan: Plan, pair: MaskPair) -> Sample:
    """Return the result of one answered query."""
    query = plan.query(pair.query)
    ignore = None if pair.ignore is None else pair.ignore[None]
    (result,) = score_masks(pair.prediction[None], pair.truth[None], ignore)
    measures = {name: float(one) for name, one in pair.measures.items()}
    return Sample.of(query, plan.image(query.image_index), result, measures=measures)
