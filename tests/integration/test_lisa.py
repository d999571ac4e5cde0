"""LISA's folder with all its sets, from the look at it to a head that was trained and measured."""

import csv
import json
import shutil
from collections import Counter

import pytest

from lens_cache.config.data import LISA_SETS as SETS
from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import load_config
from lens_cache.config.train import TrainConfig
from lens_cache.plan.plan import Plan
from lens_cache.store.store import Store
from pipelines.training.module import LensModule
from pipelines.training.train import train
from tests.support import REPOSITORY
from tests.support.lisa_world import BENCHMARKS, write_world
from tests.support.stores import extracted

CONFIG, TRAINING = REPOSITORY / "configs/extract/lisa.yaml", REPOSITORY / "configs/train/lisa.yaml"
# One query a class or text under `strict`; `parity` has every annotation, and names in their place.
QUERIES = {
    "strict": {
        "ade20k": 2,
        "cocostuff": 4,
        "pascal_part": 2,
        "paco_lvis": 5,
        "mapillary": 3,
        "refclef": 1,
        "refcoco": 6,
        "refcoco+": 6,
        "refcocog": 6,
        "reason_seg": 3,
    },
    "parity": {"pascal_part": 4, "paco_lvis": 8, "mapillary": 5},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("lisa") / "Daten von LISA, größer")


def overrides(world, **values):
    """Return what departs from the configuration that comes with the package."""
    pairs = {"root": world, **{key.replace("__", "."): value for key, value in values.items()}}
    return [f"data.{key}={value}" for key, value in pairs.items()]


def settings(world, **values):
    """Return the same as arguments of a command."""
    changes = overrides(world, **values)
    return ["-c", CONFIG, *(part for change in changes for part in ("--set", change))]


def planned(lens_cache, store, world, **values):
    """Plan with the configuration that comes with the package and these settings of ``data``."""
    code, out, err = lens_cache("plan", store, *settings(world, **values))
    assert code == 0, err
    return Plan.load(store / "plan"), out


def trained_on(plan):
    """Count the queries of training splits by dataset."""
    queries = plan.queries.to_pylist()
    return Counter(row["dataset"] for row in queries if row["split"] == "train")


def metrics(folder):
    """Return the lines of a run's log."""
    return list(csv.DictReader((folder / "logs/000/metrics.csv").open()))


# Looking


def test_every_set_and_benchmark_is_found(lens_cache, world):
    code, out, _ = lens_cache("data", "check", world, "--json")
    found = json.loads(out)
    assert (code, found["good"]) == (0, True)
    names = [entry["name"] for entry in found["sets"]]
    assert [name.split("|")[0] for name in names[:10]] == list(SETS)
    assert len(names) == 10 + len(BENCHMARKS)
    queries = {entry["name"]: entry["queries"] for entry in found["sets"]}
    assert (queries["ade20k|train"], queries["paco_lvis|train"]) == (2, 5)
    assert (queries["refclef|unc|train"], queries["refcocog|umd|test"]) == (1, 2)
    leaks = {(entry["one"], entry["other"]) for entry in found["overlaps"] if entry["leak"]}
    tests = ("refcoco|unc|val", "refcoco+|unc|val", "refcocog|umd|val")
    assert leaks == {("cocostuff|train", name) for name in tests}


def test_what_is_missing_or_broken_decides_the_exit_code(lens_cache, world, tmp_path):
    spoilt = shutil.copytree(world, tmp_path / "lisa")
    shutil.rmtree(spoilt / "vlpart")
    (spoilt / "mapillary/config_v2.0.json").write_text('{"labels": [{"na')
    code, out, _ = lens_cache("data", "check", spoilt, "--json")
    states = {
        entry["name"]: (bool(entry["missing"]), bool(entry["broken"]))
        for entry in json.loads(out)["sets"]
    }
    assert code == 1
    assert {name: state for name, state in states.items() if any(state)} == {
        "pascal_part|train": (True, False),
        "paco_lvis|train": (True, False),
        "mapillary|v2.0|train": (False, True),
    }


# Planning


@pytest.mark.parametrize("rules", ["strict", "parity"])
def test_all_ten_sets(lens_cache, world, tmp_path, rules):
    plan, _ = planned(
        lens_cache, tmp_path / "s", world, lisa__rules=rules, lisa__exclude_eval_images=False
    )
    assert trained_on(plan) == {**QUERIES["strict"], **QUERIES[rules]}
    assert plan.splits()["reason_seg|val"] == 2


def test_images_that_are_tested_on_are_left_out(lens_cache, world, tmp_path):
    plan, _ = planned(lens_cache, tmp_path / "s", world)
    assert trained_on(plan) == {**QUERIES["strict"], "cocostuff": 2}
    left_out = [row for row in plan.quarantine.to_pylist() if row["what"] == "image to test on"]
    assert [row["path"] for row in left_out] == ["coco/train2017/000000000009.jpg"]
    assert "refcoco|unc|val has it: COCO image 9" in left_out[0]["reason"]


def test_draws(lens_cache, world, tmp_path):
    values = {"lisa__draws": 200, "lisa__rules": "parity", "templates": "lisa"}
    plan, out = planned(lens_cache, tmp_path / "s", world, **values)
    assert "of 200 draws" in out
    drawn = [plan.query(plan.drawn(index)[0]).dataset for index in range(200)]
    assert set(drawn) == set(SETS)
    assert max(len(plan.drawn(index)) for index in range(200)) == 3
    asked = {query for index in range(200) for query in plan.drawn(index)}
    rest = {plan.query(query).split for query in set(range(plan.num_queries)) - asked}
    assert rest == {"val"}  # what is tested on is there whole


def test_a_set_that_is_missing(lens_cache, world, tmp_path):
    part = shutil.copytree(world, tmp_path / "lisa")
    shutil.rmtree(part / "mapillary")
    code, out, err = lens_cache("plan", tmp_path / "s", *settings(part))
    assert (code, out) == (1, "")
    error = err.strip().splitlines()[-1]
    assert "opening mapillary|v2.0|train: mapillary/config_v2.0.json" in error
    assert "get Mapillary Vistas v2.0 from https://" in error
    plan, out = planned(lens_cache, tmp_path / "s", part, lisa__missing="skip")
    assert trained_on(plan).keys() == set(SETS) - {"mapillary"}
    assert "mapillary" in out


# All the way


@pytest.fixture(scope="module")
def store(world, tiny_checkpoints, tmp_path_factory):
    """What 60 draws of the ten sets see, and every benchmark whole."""
    root = tmp_path_factory.mktemp("stores") / "lisa"
    data = {"lisa__draws": 60, "lisa__sets": f"[{', '.join((*SETS, *BENCHMARKS))}]"}
    changes = [*overrides(world, **data), f"encoders.root={tiny_checkpoints}"]
    changes += ["encoders.llava.layers=[4]", "workers.decode_threads=1"]
    summary = extracted(root, load_config(ExtractConfig, CONFIG, changes))
    assert not summary.quarantined
    return root


@pytest.fixture(scope="module")
def mixed(store, tmp_path_factory):
    """A run on the mixture that comes with the package, in miniature, with two validations."""
    folder = tmp_path_factory.mktemp("runs") / "mixed"
    train(folder, store, recipe("batch.validation_split=reason_seg|val"), resume=False)
    return folder


def recipe(*changes):
    """Return the training that comes with the package, with tiny models and few steps."""
    few = ["trainer.max_steps=4", "trainer.validate_every=2", "trainer.accelerator=cpu"]
    few += ["trainer.precision=32-true", "trainer.log_every=1", "batch.images=2"]
    return load_config(TrainConfig, TRAINING, ["preset=tiny", *few, *changes])


def test_the_mixture_trains_and_is_measured_on_one_benchmark(mixed):
    rows = [row for row in metrics(mixed) if row.get("val/giou")]
    assert [row["step"] for row in rows] == ["1", "3"]
    assert (mixed / "checkpoints/best.ckpt").exists()


def test_one_benchmark_and_all_of_a_split(lens_cache, mixed, store):
    on = ["evaluate", mixed, "--store", store, "--json", "--split"]
    code, out, err = lens_cache(*on, "reason_seg|val")
    assert code == 0, err
    found = json.loads(out)
    assert (found["images"], found["overall"]["queries"], found["by_dataset"]) == (2, 2, {})
    assert (mixed / "evaluation/reason_seg_val/report.md").exists()
    _, out, _ = lens_cache(*on, "val")
    scores = json.loads(out)["by_dataset"]
    assert {name: score["queries"] for name, score in scores.items()} == {
        "reason_seg": 2,
        "refcoco": 1,
        "refcoco+": 1,
        "refcocog": 1,
    }
    assert scores["reason_seg"]["giou"] == found["overall"]["giou"]
    assert "| refcocog | 1 |" in (mixed / "evaluation/val/report.md").read_text()


def test_a_split_that_is_not_there_names_those_that_are(lens_cache, mixed, store):
    code, _, err = lens_cache("evaluate", mixed, "--store", store, "--split", "reasonseg|val")
    assert code == 1
    assert "reason_seg|val (2 queries)" in err.strip().splitlines()[-1]


def test_the_draws_are_replayed(store, tmp_path, monkeypatch):
    seen = []
    step = LensModule.training_step
    monkeypatch.setattr(LensModule, "training_step", lambda *a: seen.append(a[1].draws) or step(*a))
    draws = ["batch.order=draws", "batch.mixture=[]", "batch.images=6"]
    train(tmp_path / "run", store, recipe(*draws), resume=False)
    train(tmp_path / "run", store, recipe(*draws, "trainer.max_steps=12"), resume=True)
    plan = Store(store).plan
    asked = [list(draw.queries) for batch in seen for draw in batch]
    assert asked == [plan.drawn(number % 60) for number in range(72)]


def test_draws_beside_a_mixture_are_refused_in_one_line(lens_cache, store, tmp_path):
    arguments = ["-c", TRAINING, "--set", "batch.order=draws"]
    code, _, err = lens_cache("train", tmp_path / "run", "--store", store, *arguments)
    assert code == 2
    assert "batch.mixture cannot be used; remove it" in err.strip().splitlines()[-1]
