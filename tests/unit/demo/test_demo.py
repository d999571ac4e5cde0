import json

import numpy as np
import pytest

import lens_cache.evaluation.baseline_scores
from lens_cache.assets import SHAPES_MODELS
from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import load_config
from lens_cache.errors import ConfigError
from lens_cache.evaluation.baseline_scores import SHARES, baselines
from lens_cache.evaluation.baselines import FrozenMasks
from lens_cache.images import masks
from lens_cache.store.store import Store
from lens_cache.training.data import evaluation_draws
from pipelines.cli import demo as commands
from pipelines.demo import shapes as demo
from pipelines.demo.shapes_settings import extract_config
from pipelines.extraction.runners import run_in_process
from pipelines.progress import Bars
from tests.support import REPOSITORY
from tests.support.stores import stamps

IMAGES = {"train": 4, "val": 3, "test": 3, "hard": 2}


@pytest.fixture(scope="module")
def small():
    """Make the demo small for this module: few pictures, no Ray."""
    training = ("trainer.max_steps=2", "trainer.validate_every=1", "trainer.log_every=1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "IMAGES", IMAGES)
        patch.setattr(demo, "TRAINING", (*demo.TRAINING, *training))
        patch.setattr(demo, "on_ray", lambda address: run_in_process)
        yield


@pytest.fixture(scope="module")
def out(small, tmp_path_factory):
    """A finished demo."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    with Bars() as bars:
        demo.run_shapes_demo(folder, bars)
    return folder


@pytest.fixture(scope="module")
def store(out):
    return Store(out / "store")


def targets(store, split):
    """Return queries with their true masks, and the path of their picture."""
    return [
        (query, masks.decode(query.target()), store.plan.image(draw.image).path.as_posix())
        for draw in evaluation_draws(store, split, None)
        for query in map(store.plan.query, draw.queries)
    ]


def plain_iou(one, other):
    return np.sum(one & other) / np.sum(one | other)


def test_the_settings_are_those_of_the_configuration_for_shapes(tmp_path):
    file = REPOSITORY / "configs" / "extract" / "shapes.yaml"
    places = [f"data.root={tmp_path}", f"encoders.root={SHAPES_MODELS}"]
    assert extract_config(tmp_path) == load_config(ExtractConfig, file, places)


def test_the_demo_ends_with_one_page(out):
    html = (out / "index.html").read_text()
    assert len(html) < 5_000_000
    assert "<script" not in html
    assert html.count("data:image/jpeg;base64,") >= 4 * 4


def test_a_second_run_resumes(out):
    kept = ("world", "store/hidden_states/layer_3/image_tokens/c", "run/checkpoints")
    before = [stamps(out / name) for name in kept]
    times = json.loads((out / "times.json").read_text())
    (out / "index.html").unlink()
    with Bars() as bars:
        result = demo.run_shapes_demo(out, bars)
    assert [stamps(out / name) for name in kept] == before
    assert (out / "index.html").exists()
    after = json.loads((out / "times.json").read_text())
    assert list(after) == list(times)
    assert all(after[name] == times[name] for name in ("world", "extract", "train"))
    assert after["evaluate"] != times["evaluate"]
    assert result.document["page"] == str(out / "index.html")
    assert "attention peak" in result.text


def test_a_folder_with_another_demo_is_refused(out):
    with Bars() as bars, pytest.raises(ConfigError, match=r"seed is 0 there and 1 here.*--out"):
        demo.run_shapes_demo(out, bars, seed=1)


def test_a_split_without_data_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--split .* needs --data"):
        commands.demo(out=tmp_path / "out", split="train2017")
    assert not (tmp_path / "out").exists()


def test_lines_equal_a_plain_count(store):
    found = {line.name: line for line in baselines(store, ["test"], development="val").lines}
    lines = (store.root.parent / "world" / "scenes.jsonl").read_text().splitlines()
    scenes = {
        entry["image"]: [masks.decode(thing["rle"]) for thing in entry["things"]]
        for entry in map(json.loads, lines)
    }
    asked = targets(store, "test")
    by_topic = {query.topic for query, _, _ in asked}
    for name, expected in (
        ("everything", [np.mean(truth) for _, truth, _ in asked]),
        (
            "random thing",
            [np.mean([plain_iou(t, truth) for t in scenes[path]]) for _, truth, path in asked],
        ),
    ):
        scores = found[name].splits["test"]
        assert scores.overall.giou.value == pytest.approx(np.mean(expected), abs=1e-5)
        assert scores.overall.queries == len(asked)
        assert set(scores.by_topic) == by_topic
        for topic, score in scores.by_topic.items():
            mine = [v for v, (q, _, _) in zip(expected, asked, strict=True) if q.topic == topic]
            assert score.giou.value == pytest.approx(np.mean(mine), abs=1e-5)
        for kind, score in scores.by_kind.items():
            mine = [
                v
                for v, (q, _, _) in zip(expected, asked, strict=True)
                if f"{q.kind}, {q.length}" == kind
            ]
            assert score.giou.value == pytest.approx(np.mean(mine), abs=1e-5)
    assert [line.name for line in found.values() if line.ceiling] == ["oracle points"]


def test_layer_rows_and_share_are_the_best_on_the_development_split(store):
    frozen = FrozenMasks(store)
    chosen = lens_cache.evaluation.baseline_scores._choose(
        frozen, lens_cache.evaluation.baseline_scores._cases(store, "val", None, None)
    )
    draws = evaluation_draws(store, "val", None)
    truths = [[masks.decode(store.plan.query(q).target()) for q in draw.queries] for draw in draws]

    def giou(predict):
        return np.mean(
            [
                plain_iou(mask.numpy(), truth)
                for draw, mine in zip(draws, truths, strict=True)
                for mask, truth in zip(predict(draw), mine, strict=True)
            ]
        )

    cuts = {
        (reading, share): giou(
            lambda draw, r=reading, s=share: frozen.attention(draw, r, [s])[:, 0]
        )
        for reading in frozen.readings
        for share in SHARES
    }
    peaks = {r: giou(lambda draw, r=r: frozen.at_peak(draw, r)) for r in frozen.readings}
    assert cuts[chosen.cut, chosen.share] == pytest.approx(max(cuts.values()), abs=1e-6)
    assert peaks[chosen.peak] == pytest.approx(max(peaks.values()), abs=1e-6)


def test_without_a_list_of_things_the_line_is_absent_and_said_to_be(store, monkeypatch):
    monkeypatch.setattr(
        lens_cache.evaluation.baseline_scores, "read_things", lambda root, images: None
    )
    found = baselines(store, ["hard"], development="val", limit=1)
    assert "random thing" not in [line.name for line in found.lines]
    assert found.notes == ["no random thing: the data has no scenes.jsonl"]
