"""Rank the cached layers by the MLLM's own attention, compared with the true masks. No training.

Two scores: the pointing game (Zhang et al. 2018, without its tolerance), i.e. whether the centre of
the strongest cell is inside the mask; and the mean IoU of the map thresholded at the share of its
peak that is best for the layer. A random point hits with the mean area of the masks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor

from lens_cache.errors import StoreError
from lens_cache.evaluation.baseline_scores import SHARES
from lens_cache.evaluation.baselines import (
    Reading,
    Rows,
    attention_reader,
    masks_above,
    peak_points,
)
from lens_cache.evaluation.ground_truth import Case, cases
from lens_cache.evaluation.intervals import Interval, Ratio, bootstrap
from lens_cache.features.types import Features
from lens_cache.images.geometry import normalised_to_image
from lens_cache.progress import Progress
from lens_cache.store.store import Store

_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class ProbedReading:
    """How well one layer's attention points, over some text rows.

    Attributes:
        layer: The decoder layer.
        rows: ``mean`` over the text tokens, or the ``last`` one.
        pointing: Share of queries with the strongest cell inside the mask.
        iou: Mean IoU of the map thresholded at ``share``.
        share: The best threshold as a share of the peak.
        by_kind: Pointing on the queries of each kind and length.
    """

    layer: int
    rows: Rows
    pointing: Interval
    iou: Interval
    share: float
    by_kind: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Every reading of a store, the best at pointing first.

    Attributes:
        store: The store.
        split: Split of the queries; all if None.
        images: Number of images.
        queries: Number of queries.
        without_target: Number of queries without a target; no point hits them, so they are not in
            ``queries``.
        chance: Mean share of the image covered by a mask: the pointing score of a random point.
        readings: The results.
        without_weights: Cached layers without decoder weights in the store.
    """

    store: str
    split: str | None
    images: int
    queries: int
    without_target: int
    chance: float
    readings: list[ProbedReading]
    without_weights: list[int]


@dataclass
class _Found:
    """Results of one reading, by query."""

    hits: list[float] = field(default_factory=list)
    ious: list[Tensor] = field(default_factory=list)


def probe(
    store: Store,
    split: str | None,
    *,
    limit: int | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Probe:
    """Rank the cached layers of a store.

    Args:
        store: A complete store.
        split: Split of the queries; all if None.
        limit: Use only this many images, the first ones.
        device: Device of the attention.
        progress: Called with the name of the step, images done and images in all.

    Raises:
        StoreError: If the split has no query with a target, or the store has the weights of none of
            its layers.
    """
    frozen = store.frozen()
    readings = [
        Reading(layer, rows) for layer in sorted(frozen.decoder_layers) for rows in get_args(Rows)
    ]
    if not readings:
        raise StoreError(
            f"probing {store.root}: expected the decoder weights of a cached layer, found none of "
            f"{list(store.layers)}; extract an earlier layer with --set encoders.llava.layers=[...]"
        )
    heads = {reading: attention_reader(frozen, reading).to(device) for reading in readings}
    found = {reading: _Found() for reading in readings}
    images: list[str] = []
    kinds: list[str] = []
    areas: list[float] = []
    without_target = 0
    with torch.inference_mode():
        for whole in cases(store, split, limit, progress, "probe"):
            case = whole.with_target()
            without_target += len(whole.queries) - len(case.queries)
            if not case.queries:
                continue
            images += [case.image.image_id] * len(case.queries)
            kinds += [f"{query.kind}, {query.length}" for query in case.queries]
            areas += case.targets.flatten(1).float().mean(dim=1).tolist()
            for reading, head in heads.items():
                features = store.read(case.draw.image, case.draw.queries, reading.layer)
                maps = head(Features.stack([features]).to(device, torch.float32)).grounding_map
                _measure(found[reading], maps.cpu(), case, store.manifest.side)
    if not images:
        raise StoreError(f"probing {store.root}: no query of the split {split!r} has a target")
    ranked = [_summarise(reading, mine, images, kinds) for reading, mine in found.items()]
    return Probe(
        store=str(store.root),
        split=split,
        images=len(set(images)),
        queries=len(images),
        without_target=without_target,
        chance=sum(areas) / len(areas),
        readings=sorted(ranked, key=lambda one: -one.pointing.value),
        without_weights=[layer for layer in store.layers if layer not in frozen.decoder_layers],
    )


def _measure(found: _Found, maps: Tensor, case: Case, side: int) -> None:
    """Compare the maps of an image's queries, (Q, rows, columns), with their masks."""
    width, height = case.image.width, case.image.height
    points = normalised_to_image(
        peak_points(maps)[:, 0].double().numpy(), width=width, height=height
    )
    for (x, y), target in zip(points, case.targets, strict=True):
        inside = 0 <= x < width and 0 <= y < height
        found.hits.append(float(inside and bool(target[int(y), int(x)])))
    cut = [masks_above(one, SHARES, width=width, height=height, side=side) for one in maps]
    found.ious.append(case.ious(torch.stack(cut, dim=1)).T)


def _summarise(
    reading: Reading, found: _Found, images: Sequence[str], kinds: Sequence[str]
) -> ProbedReading:
    ious = torch.cat(found.ious)
    best = int(ious.mean(dim=0).argmax())
    by_kind = defaultdict(list)
    for kind, hit in zip(kinds, found.hits, strict=True):
        by_kind[kind].append(hit)
    return ProbedReading(
        layer=reading.layer,
        rows=reading.rows,
        pointing=_mean(found.hits, images),
        iou=_mean(ious[:, best].tolist(), images),
        share=SHARES[best],
        by_kind={kind: sum(hits) / len(hits) for kind, hits in sorted(by_kind.items())},
    )


def _mean(values: Sequence[float], images: Sequence[str]) -> Interval:
    """Return a mean over queries with its interval over images."""
    return bootstrap({"mean": Ratio(values)}, images, resamples=_RESAMPLES)["mean"]
