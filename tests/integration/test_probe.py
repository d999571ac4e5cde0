"""Which layer points best: against pointing and cutting by hand, and on models that can point."""

import numpy as np
import pytest
import torch

from lens_cache.errors import StoreError
from lens_cache.evaluation import probe as module
from lens_cache.evaluation.baseline_scores import SHARES
from lens_cache.evaluation.baselines import Reading, attention_reader
from lens_cache.evaluation.probe import probe
from lens_cache.features.types import Features
from lens_cache.images import masks
from lens_cache.images.geometry import logits_to_image
from lens_cache.store.store import Store
from pipelines.evaluation.probe_report import probe_report


@pytest.fixture(scope="module")
def store(tiny_store):
    return Store(tiny_store)


def by_hand(store, reading):
    """Return per query whether the peak hits, and the IoU of every cut."""
    head = attention_reader(store.frozen(), reading)
    hits, ious = [], []
    for image in store.images(None):
        queries = store.plan.query_range(image)
        features = Features.stack([store.read(image, queries, reading.layer)])
        with torch.inference_mode():
            maps = head(features.to("cpu", torch.float32)).grounding_map
        for query, grounding in zip(queries, maps, strict=True):
            target = masks.decode(store.plan.query(query).target())
            ignore = store.plan.query(query).ignore()
            counted = ~masks.decode(ignore) if ignore else np.ones_like(target)
            height, width = target.shape
            row, column = np.unravel_index(int(grounding.argmax()), grounding.shape)
            side = max(height, width)
            y = int((row + 0.5) / grounding.shape[0] * side)
            x = int((column + 0.5) / grounding.shape[1] * side)
            hits.append(y < height and x < width and bool(target[y, x]))
            full = logits_to_image(grounding, width=width, height=height, side=store.manifest.side)
            cut = [(full > share * full.max()).numpy() & counted for share in SHARES]
            truth = target & counted
            ious.append([(one & truth).sum() / max(1, (one | truth).sum()) for one in cut])
    return hits, np.array(ious)


@pytest.mark.parametrize("rows", ["mean", "last"])
def test_a_reading_scores_what_counting_by_hand_gives(store, rows):
    (found,) = [one for one in probe(store, None).readings if one.rows == rows]
    hits, ious = by_hand(store, Reading(4, rows))
    assert found.pointing.value == pytest.approx(np.mean(hits))
    assert found.iou.value == pytest.approx(ious.mean(axis=0).max(), abs=1e-5)
    assert found.share == SHARES[int(ious.mean(axis=0).argmax())]
    assert found.pointing.low <= found.pointing.value <= found.pointing.high


def test_chance_is_the_share_of_the_masks(store):
    found = probe(store, None)
    shares = [
        masks.decode(store.plan.query(query).target()).mean()
        for image in store.images(None)
        for query in store.plan.query_range(image)
    ]
    assert found.queries == len(shares)
    assert found.chance == pytest.approx(np.mean(shares), abs=1e-6)


def test_the_best_comes_first_and_is_named(store, monkeypatch):
    """Maps that point into every mask win over maps that point at a corner."""

    def pointing(maps, case):
        for grounding, target in zip(maps, case.targets, strict=True):
            ys, xs = torch.nonzero(target, as_tuple=True)
            side = max(target.shape)
            grounding.zero_()
            row = int(ys[0].item() / side * grounding.shape[0])
            grounding[row, int(xs[0].item() / side * grounding.shape[1])] = 1.0
        return maps

    measure = module._measure
    readings = iter(["mean", "last"] * 100)

    def measuring(found, maps, case, side):
        maps = maps.clone()
        if next(readings) == "last":
            maps = pointing(maps, case)
        else:
            maps.zero_()
            maps[:, -1, -1] = 1.0  # in the padding
        measure(found, maps, case, side)

    monkeypatch.setattr(module, "_measure", measuring)
    found = probe(store, None)
    assert [one.rows for one in found.readings] == ["last", "mean"]
    assert found.readings[0].pointing.value > 0.5 > found.readings[1].pointing.value == 0
    report = probe_report(found)
    assert "best: --set model.layer=4 --set model.attention_rows=last" in report.text
    assert report.document["readings"][0]["layer"] == 4


def test_a_split_that_is_not_there_is_refused(store):
    with pytest.raises(StoreError, match="choosing split 'nowhere'"):
        probe(store, "nowhere")
