"""LISA's folder with all its sets, from the look at it to a head that was trained and measured."""

import dataclasses
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from lens_cache.config import TrainConfig
from lens_cache.config_file import load_config
from lens_cache.data_config import LISA_SETS
from lens_cache.plan import Plan
from lens_cache.store.reader import Store
from pipelines import cli
from pipelines.cli import main
from tests.lisa.world import BENCHMARKS, SETS, write_world

HERE = Path(__file__).parents[2]
ALL = ", ".join((*SETS, *BENCHMARKS))
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


@pytest.fixture
def run(monkeypatch, capfd):
    """Run the command line in this process; returns exit code, stdout and stderr."""

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["lens-cache", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        return code, *capfd.readouterr()

    return start


def settings(world, **values):
    """Return the arguments that set these values of ``data``."""
    pairs = {"root": world, **{key.replace("__", "."): value for key, value in values.items()}}
    config = ["-c", HERE / "configs/extract/lisa.yaml"]
    return config + [part for key, value in pairs.items() for part in ("--set", f"data.{key}={value}")]


def planned(run, store, world, **values):
    """Plan with the configuration that comes with the package and these settings of ``data``."""
    code, out, err = run("plan", store, *settings(world, **values))
    assert code == 0, err
    return Plan.load(store / "plan"), out


def trained_on(plan):
    """Count the queries of training splits by dataset."""
    queries = plan.queries.to_pylist()
    return Counter(row["dataset"] for row in queries if row["split"] == "train")


# Looking


def test_every_set_and_benchmark_is_found(run, world):
    code, out, _ = run("data", "check", world, "--json")
    found = json.loads(out)
    assert (code, found["good"]) == (0, True)
    names = [entry["name"] for entry in found["sets"]]
    assert [name.split("|")[0] for name in names[:10]] == list(LISA_SETS)
    assert len(names) == 10 + len(BENCHMARKS)
    queries = {name.split("|")[0]: entry["queries"] for name, entry in zip(names, found["sets"], strict=True)}
    assert {name: queries[name] for name in ("ade20k", "paco_lvis", "refclef")} == {
        "ade20k": 2, "paco_lvis": 5, "refclef": 1
    }
    leaks = {(entry["one"], entry["other"]) for entry in found["overlaps"] if entry["leak"]}
    tests = ("refcoco|unc|val", "refcoco+|unc|val", "refcocog|umd|val")
    assert leaks == {("cocostuff|train", name) for name in tests}


def test_what_is_missing_or_broken_decides_the_exit_code(run, world, tmp_path):
    spoilt = shutil.copytree(world, tmp_path / "lisa")
    shutil.rmtree(spoilt / "vlpart")
    (spoilt / "mapillary/config_v2.0.json").write_text('{"labels": [{"na')
    code, out, _ = run("data", "check", spoilt, "--json")
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
def test_all_ten_sets(run, world, tmp_path, rules):
    plan, _ = planned(run, tmp_path / "s", world, lisa__rules=rules, lisa__exclude_eval_images=False)
    assert trained_on(plan) == {**QUERIES["strict"], **QUERIES[rules]}
    assert plan.splits()["reason_seg|val"] == 2


def test_images_that_are_tested_on_are_left_out_as_the_configuration_says(run, world, tmp_path):
    plan, _ = planned(run, tmp_path / "s", world)
    assert trained_on(plan) == {**QUERIES["strict"], "cocostuff": 2}
    left_out = [row for row in plan.quarantine.to_pylist() if row["what"] == "image to test on"]
    assert [row["path"] for row in left_out] == ["coco/train2017/000000000009.jpg"]
    assert "refcoco|unc|val has it: COCO image 9" in left_out[0]["reason"]


def test_draws(run, world, tmp_path):
    values = {"lisa__draws": 200, "lisa__rules": "parity", "templates": "lisa"}
    plan, out = planned(run, tmp_path / "s", world, **values)
    assert "of 200 draws" in out
    drawn = [plan.query(plan.drawn(index)[0]).dataset for index in range(200)]
    assert set(drawn) == set(LISA_SETS)
    assert max(len(plan.drawn(index)) for index in range(200)) == 3
    asked = {query for index in range(200) for query in plan.drawn(index)}
    rest = {plan.query(query).split for query in set(range(plan.num_queries)) - asked}
    assert rest == {"val"}  # what is tested on is there whole


def test_a_set_that_is_missing(run, world, tmp_path):
    part = shutil.copytree(world, tmp_path / "lisa")
    shutil.rmtree(part / "mapillary")
    code, out, err = run("plan", tmp_path / "s", *settings(part))
    assert (code, out) == (1, "")
    error = err.strip().splitlines()[-1]
    assert "opening mapillary|v2.0|train: mapillary/config_v2.0.json" in error
    assert "get Mapillary Vistas v2.0 from https://" in error
    plan, out = planned(run, tmp_path / "s", part, lisa__missing="skip")
    assert trained_on(plan).keys() == set(SETS) - {"mapillary"}
    assert "mapillary" in out


# All the way


@pytest.fixture(scope="module")
def store(world, tiny_checkpoints, tmp_path_factory):
    """A store of the ten sets and two benchmarks, with the draws of 60."""
    root = tmp_path_factory.mktemp("stores") / "lisa"
    arguments = settings(world, lisa__draws=60, lisa__sets=f"[{ALL}]")
    arguments += ["--set", f"encoders.root={tiny_checkpoints}", "--set", "encoders.llava.layers=[4]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lens-cache", "extract", str(root), *map(str, arguments)])
        main()
    return root
