"""The benchmarks of training and of stored precision, at a size of nothing."""

import json

import pytest
import torch

from lens_cache.config.train import LossConfig
from lens_cache.errors import ConfigError, TrainingError
from lens_cache.store.store import Store
from pipelines.benchmark import precision as precisions
from pipelines.benchmark import train as benchmark
from pipelines.benchmark.models import FULL_SIZE, TRAIN_CPU_SIZE, build_pair
from pipelines.benchmark.random_features import RandomFeatures, RecordSizes
from pipelines.benchmark.random_store import write_store
from pipelines.benchmark.train_report import report_train
from pipelines.benchmark.train_ways import TrainingWork
from tests.support.stores import Quiet
from tests.unit.benchmark.test_extract import SMALL

LOSS = LossConfig(attention_size=16, mask_size=16)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    pair = build_pair(SMALL, torch.float32, "cpu")
    sizes = RecordSizes(
        name="small", image_tokens=16, hidden_size=64, channels=256, side=4, questions=3
    )
    root = tmp_path_factory.mktemp("random") / "store"
    write_store(root, RandomFeatures(sizes, 4), "zarr", shard_size=2)
    return TrainingWork(
        Store(root), pair, LOSS, images=2, instructions=3, workers=0, side=SMALL.sam.image_size
    )


def test_every_way_trains_on_the_same_draws(work):
    loop, rows, ours = (way.batches() for way in work.ways())
    for _ in range(3):
        batches = [next(loop), next(rows), next(ours)]
        asked = [[(d.image, q) for d in batch.draws for q in d.queries] for batch in batches]
        assert asked[0] == asked[1] == asked[2]
        assert batches[0].features.num_questions == batches[1].features.num_questions == (1,) * 6
        assert batches[2].features.num_questions == (3, 3)
        for batch in batches[:2]:
            assert all(map(torch.equal, batch.targets.masks, batches[2].targets.masks))
        shapes = [batch.features.image_tokens.shape[1:] for batch in batches]
        assert shapes[0] == shapes[1] == shapes[2]


def test_rows_hold_what_the_grouped_batch_holds(work):
    _, rows, ours = (next(way.batches()) for way in work.ways())
    tokens = ours.features.image_tokens.repeat_interleave(3, dim=0)
    assert torch.equal(rows.features.image_tokens, tokens)


def test_the_loop_runs_the_models_that_an_extraction_runs(work):
    pair = work._pair
    loop = next(work.ways()[0].batches())
    draw = loop.draws[0]
    texts = [work._text(pair, draw.queries[0])]
    found = pair.llava.encode(work._square(draw.image), texts)
    torch.testing.assert_close(
        loop.features.image_tokens[0], found.image_tokens[pair.layer], rtol=1e-3, atol=1e-5
    )
    torch.testing.assert_close(
        loop.features.texts.tokens[0][: len(texts[0])],
        found.text_tokens[pair.layer][0],
        rtol=1e-3,
        atol=1e-5,
    )


def small(**changed):
    settings = {"device": "cpu", "instructions": 2, "images": 1, "rounds": 2, "steps": 1}
    return benchmark.measure(SMALL, Quiet(), workers=0, **settings | changed)


def test_speeds_follow_from_seconds():
    found = small()
    loop, _, ours = found.ways
    assert [way.name for way in found.ways] == ["in the loop", "cached rows", "lens-cache"]
    assert loop.ratio == 1
    for way in found.ways:
        assert way.images_per_second == pytest.approx(1 / way.seconds)
        assert way.instructions_per_second == pytest.approx(2 / way.seconds)
        assert way.ratio == pytest.approx(loop.seconds / way.seconds)
        assert way.hours == pytest.approx(800_000 * way.seconds / 3600)
    assert loop.frozen_bytes > 0 == ours.frozen_bytes
    text = report_train(found).text
    assert f"{loop.seconds / ours.seconds:.1f}x in the loop" in text
    assert json.loads(json.dumps(report_train(found).document))["ways"][2]["hours"] > 0


def test_the_cached_ways_alone_need_no_frozen_models(monkeypatch):
    monkeypatch.setattr(benchmark, "build_pair", None)
    found = small(cached=True)
    assert [way.name for way in found.ways] == ["cached rows", "lens-cache"]
    rows, ours = found.ways
    assert (rows.ratio, rows.frozen_bytes) == (1, 0)
    text = report_train(found).text
    assert f"{rows.seconds / ours.seconds:.1f}x cached rows" in text
    assert "in the loop" not in text


def test_ways_that_compute_other_losses_are_a_defect(monkeypatch):
    monkeypatch.setattr(benchmark, "_TOLERANCE", -1.0)
    with pytest.raises(TrainingError, match="this is a defect"):
        small()


def test_the_full_size_wants_a_gpu():
    with pytest.raises(ConfigError, match="expected a GPU with 80 GB"):
        benchmark.benchmark_train(Quiet(), full_size=True, device="cpu")


def test_the_size_for_cpus_is_in_proportion():
    assert TRAIN_CPU_SIZE.layer == FULL_SIZE.layer
    for name in ("layers", "image_side", "patch_size"):
        assert getattr(TRAIN_CPU_SIZE.llava, name) == getattr(FULL_SIZE.llava, name)


def test_precisions_are_measured_against_the_models_own(monkeypatch):
    sizes = RecordSizes(
        name="small", image_tokens=16, hidden_size=64, channels=32, side=4, questions=2
    )
    monkeypatch.setattr(precisions, "SMALL_SIZE", sizes)
    found = precisions.benchmark_precision(Quiet(), full_size=False, images=3, rounds=1)
    model, fp8, int8 = found.precisions
    assert [one.precision for one in found.precisions] == ["model", "fp8", "int8"]
    assert model.ratio == 1
    assert set(model.errors.values()) == {0.0}
    assert fp8.record_bytes < 0.75 * model.record_bytes
    assert all(0.02 < error < 0.04 for error in fp8.errors.values())
    assert all(0 < error < 0.02 for error in int8.errors.values())
    assert "int8" in precisions.report_precision(found).text
