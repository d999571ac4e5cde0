import json
from pathlib import Path

import pytest
import yaml

from lens_cache.config.sweep import load_sweep
from lens_cache.errors import ConfigError, StoreError, TrainingError
from lens_cache.store.io.file_lock import file_lock
from pipelines.sweeps.report import write_report
from pipelines.sweeps.sweep import LOCK_FILE, run_sweep
from tests.support.stores import Quiet, copied, stamps

BASE = [
    "preset=tiny",
    "model.layer=4",
    "loss.attention_size=32",
    "loss.mask_size=32",
    "batch.split=train2017",
    "batch.images=1",
    "trainer.max_steps=2",
    "trainer.precision=32-true",
    "trainer.accelerator=cpu",
]


def sweep_of(folder, *rows, splits=("train2017",)):
    path = folder / "sweep.yaml"
    tree = {"name": "small", "splits": list(splits), "base": BASE, "rows": list(rows)}
    path.write_text(yaml.safe_dump(tree))
    return load_sweep(path)


FULL = {"name": "full"}
FROZEN = {"name": "SAM frozen", "set": ["model.train_mask_decoder=false"]}


@pytest.fixture(scope="module")
def swept(tmp_path_factory, tiny_store):
    """Two rows with two seeds: folder, sweep, reporter and outcome."""
    out = tmp_path_factory.mktemp("sweep")
    config, reporter = sweep_of(out, FULL, FROZEN), Quiet()
    return out, config, reporter, run_sweep(config, tiny_store, out, reporter, seeds=2, jobs=2)


def test_every_row_and_seed_is_a_separate_run(swept):
    out, _, reporter, outcome = swept
    assert outcome.failures == []
    assert {name: sorted(runs) for name, runs in outcome.results.items()} == {
        "full": [0, 1],
        "SAM frozen": [0, 1],
    }
    for row in ("full", "sam-frozen"):
        for seed in (0, 1):
            folder = out / "runs" / row / f"seed-{seed}"
            assert (folder / "checkpoints/last.ckpt").exists()
            assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["seed"] == seed
    assert [step[1:] for step in reporter.steps] == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    scores = [run.overall["train2017"] for run in outcome.results["full"].values()]
    assert scores[0].queries == scores[1].queries > 0
    assert scores[0] != scores[1]
    assert set(outcome.results["full"][0].groups["train2017"]) == {"kind", "topic"}


def test_the_report_is_in_the_folder(swept):
    out, config, _, outcome = swept
    report = write_report(config, outcome, out)
    assert json.loads((out / "small.json").read_text()) == json.loads(json.dumps(report.document))
    assert "| SAM frozen | 2 |" in (out / "small.md").read_text()
    assert "SAM frozen" in (out / "small.svg").read_text()


def test_finished_runs_are_not_repeated(swept, tiny_store):
    out, config, _, outcome = swept
    before, reporter = stamps(out / "runs"), Quiet()
    assert run_sweep(config, tiny_store, out, reporter, seeds=2) == outcome
    assert stamps(out / "runs") == before
    assert reporter.steps == [("runs", 4, 4)]


def test_a_run_without_a_result_is_repeated_with_the_same_result(tmp_path, swept, tiny_store):
    out, config, _, outcome = swept
    again, reporter = copied(out, tmp_path / "again"), Quiet()
    (again / "runs/full/seed-1/result.json").unlink()
    found = run_sweep(config, tiny_store, again, reporter, seeds=2)
    assert reporter.steps == [("runs", 3, 4), ("runs", 4, 4)]
    assert found.results["full"][1].overall == outcome.results["full"][1].overall
    assert found.results["SAM frozen"] == outcome.results["SAM frozen"]


def test_a_run_of_other_settings_is_refused(swept, tiny_store):
    out, config, _, _ = swept
    with pytest.raises(ConfigError, match=r"'full', seed 0: .*finished run with other settings"):
        run_sweep(config, tiny_store, out, Quiet(), seeds=2, steps=3)


def test_a_folder_belongs_to_one_sweep_at_a_time(tmp_path, tiny_store):
    config = sweep_of(tmp_path, FULL, FROZEN)
    with (
        file_lock(tmp_path / LOCK_FILE, RuntimeError()),
        pytest.raises(TrainingError, match="still works there; wait"),
    ):
        run_sweep(config, tiny_store, tmp_path, Quiet(), seeds=1)


def test_a_split_that_the_store_lacks_is_refused_before_any_run(tmp_path, tiny_store):
    config = sweep_of(tmp_path, FULL, FROZEN, splits=("test",))
    with pytest.raises(StoreError, match="test"):
        run_sweep(config, tiny_store, tmp_path, Quiet(), seeds=1)
    assert not (tmp_path / "runs").exists()


def test_a_failing_row_is_named_and_the_others_finish(tmp_path, tiny_store):
    wild = {"name": "wild", "set": ["optimizer.lr=1.0e+30", "optimizer.warmup_steps=0"]}
    wild["set"].append("optimizer.gradient_clip=0")
    config, reporter = sweep_of(tmp_path, FULL, wild), Quiet()
    outcome = run_sweep(config, tiny_store, tmp_path, reporter, seeds=1, steps=3)
    (failure,) = outcome.failures
    assert (failure.row, failure.seed) == ("wild", 0)
    assert any("the loss is not finite" in line for line in failure.lines)
    assert failure.lines[-1] == "exit code 1"
    assert any(text.startswith("'wild', seed 0 failed; the end of") for text in reporter.messages)
    assert list(outcome.results) == ["full"]
    assert reporter.steps[-1] == ("runs", 2, 2)
    write_report(config, outcome, tmp_path)
    assert "## Runs that failed" in Path(tmp_path / "small.md").read_text()
