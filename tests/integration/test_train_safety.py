"""What a training never does: lose its checkpoint, save NaN, or end a kill as a success."""

import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback

import pipelines.training.train as phase
from lens_cache.errors import CheckpointError, ConfigError, StoreError, TrainingError
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from lens_cache.training.run import Run, used_shards
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.report import evaluation as report_of
from pipelines.extraction.verify import repair_store
from pipelines.training.train import train
from tests.integration.test_training import assert_same_weights, recipe, weights
from tests.support import REPOSITORY
from tests.support.stores import Quiet, copied

VALIDATED = {"validation_split": "train2017", "limit_validation_images": 2}


def with_callback(monkeypatch, callback):
    """Run a callback before all others."""
    real = phase.callbacks
    monkeypatch.setattr(phase, "callbacks", lambda *given: [callback, *real(*given)])


class SpoilGradient(Callback):
    """One element of one gradient becomes NaN in step 3."""

    def on_after_backward(self, trainer, module):
        if trainer.global_step == 3:
            gradient = next(p.grad for p in module.parameters() if p.grad is not None)
            gradient.view(-1)[0] = torch.nan


class SpoilWeight(Callback):
    def on_train_batch_end(self, trainer, module, *_):
        if trainer.global_step == 4:
            weight = next(p for p in module.parameters() if p.requires_grad)
            weight.data.view(-1)[0] = torch.nan


@pytest.mark.parametrize("clip", [1.0, 0.0])
def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path, tiny_store, clip):
    config = recipe(max_steps=6, optimizer={"gradient_clip": clip})
    whole = train(tmp_path / "whole", tiny_store, config, resume=False)
    with pytest.MonkeyPatch.context() as patch:
        with_callback(patch, SpoilGradient())
        with pytest.raises(TrainingError, match=r"step 3: the norm of the gradient .* --resume"):
            train(tmp_path / "run", tiny_store, config, resume=False)
    saved = torch.load(Run.open(tmp_path / "run").checkpoint("last"), weights_only=True)
    assert saved["global_step"] == 2
    resumed = train(tmp_path / "run", tiny_store, config, resume=True)
    assert_same_weights(weights(resumed), weights(whole))


class SpoilFeatures(Callback):
    """The first of the two batches of step 3 is not finite."""

    def on_train_batch_start(self, trainer, module, batch, number):
        if number == 2 * 3:
            batch.features.image_embeddings.fill_(torch.nan)


def test_a_loss_that_is_not_finite_changes_nothing(tmp_path, tiny_store, monkeypatch):
    with_callback(monkeypatch, SpoilFeatures())
    config = recipe(max_steps=6, batch={"accumulate": 2})
    with pytest.raises(TrainingError, match="step 3: the loss is not finite"):
        train(tmp_path / "run", tiny_store, config, resume=False)
    run = Run.open(tmp_path / "run")
    assert torch.load(run.checkpoint("last"), weights_only=True)["global_step"] == 2
    assert all(value.isfinite().all() for value in weights(run).values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path, tiny_store, monkeypatch):
    with_callback(monkeypatch, SpoilWeight())
    with pytest.raises(TrainingError, match=r"step 4: the weight .* is not finite.*of step 2"):
        train(tmp_path / "run", tiny_store, recipe(max_steps=6), resume=False)
    run = Run.open(tmp_path / "run")
    assert all(value.isfinite().all() for value in weights(run).values())


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_step_and_tells_how_to_resume(tmp_path, tiny_store, signum):
    run = tmp_path / "run"
    settings = {
        "batch.split": "train2017",
        "batch.images": 1,
        "batch.accumulate": 2,
        "batch.loader_workers": 0,
        "loss.attention_size": 32,
        "loss.mask_size": 32,
        "trainer.precision": "32-true",
        "trainer.accelerator": "cpu",
        "trainer.threads": 1,
        "trainer.log_every": 1,
        "trainer.validate_every": 100000,
        "trainer.max_steps": 100000,
    }
    overrides = [word for pair in settings.items() for word in ("--set", "=".join(map(str, pair)))]
    words = ["train", str(run), "--store", str(tiny_store), *overrides]
    process = subprocess.Popen(cli(words), stderr=subprocess.PIPE, text=True, cwd=REPOSITORY)
    log = run / "logs/000/metrics.csv"
    deadline = time.monotonic() + 300
    while not (log.exists() and len(log.read_text().splitlines()) > 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "no step was logged"
        time.sleep(0.2)
    process.send_signal(signum)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 128 + signum
    step = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert step > 1
    line, command = said.strip().splitlines()[-1].split("; resume with: ")
    path = run / "checkpoints/last.ckpt"
    assert line == f"lens-cache: stopped by {signum.name}: {path} is of step {step}"
    again = [*shlex.split(command)[1:], "--set", f"trainer.max_steps={step + 1}"]
    done = subprocess.run(cli(again), capture_output=True, text=True, cwd=REPOSITORY, timeout=300)
    assert done.returncode == 0, done.stderr
    assert torch.load(path, weights_only=True)["global_step"] == step + 1


def cli(words):
    return [sys.executable, "-c", "from pipelines.cli import main; main()", *words]


def test_a_run_that_ends_before_its_first_checkpoint_is_resumed_from_the_start(
    tmp_path, tiny_store, monkeypatch
):
    config = recipe(max_steps=2)
    whole = train(tmp_path / "whole", tiny_store, config, resume=False)

    class Stop(Callback):
        def on_train_batch_start(self, *_):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        with_callback(patch, Stop())
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", tiny_store, config, resume=False)
    resumed = train(tmp_path / "run", tiny_store, config, resume=True)
    assert_same_weights(weights(resumed), weights(whole))


def test_there_is_one_checkpoint_and_the_best_has_no_optimizer(tmp_path, tiny_store, monkeypatch):
    """They are written next to their path, not to the folder of temporary files first."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    plain = train(tmp_path / "plain", tiny_store, recipe(max_steps=2), resume=False)
    assert [path.name for path in plain.folder.rglob("*.ckpt")] == ["last.ckpt"]
    with pytest.raises(CheckpointError, match="it was not validated; use the last one"):
        plain.checkpoint("best")
    config = recipe(max_steps=2, batch=VALIDATED)
    run = train(tmp_path / "validated", tiny_store, config, resume=False)
    files = sorted(path.name for path in run.folder.rglob("*") if "ckpt" in path.name)
    assert files == ["best.ckpt", "last.ckpt"]
    best = torch.load(run.checkpoint("best"), weights_only=True)
    assert "optimizer_states" not in best
    assert_same_weights(best["state_dict"], weights(run))


def test_a_damaged_run_is_one_line(tmp_path, tiny_store):
    run = train(tmp_path / "run", tiny_store, recipe(max_steps=2), resume=False)
    for name, use in (("config.yaml", Run.open), ("used_shards.json", used_shards)):
        before = (run.folder / name).read_bytes()
        (run.folder / name).write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"opening the run .* train a new run"):
            use(run.folder)
        (run.folder / name).write_bytes(before)
    resumed = train(run.folder, tiny_store, recipe(max_steps=2), resume=True)
    assert resumed.checkpoint("last").exists()


def test_an_evaluation_tells_how_many_images_the_run_has_seen(tmp_path, tiny_store):
    config = recipe(max_steps=1, batch={"limit_images": 2})
    run = train(tmp_path / "run", tiny_store, config, resume=False)
    found = evaluate(run, Store(tiny_store), "train2017", num_panels=0)
    assert found.trained_on == 2 < found.images
    line = f"the run was trained on 2 of these {found.images} images"
    assert line in report_of(found).text
    assert line in (run.folder / "evaluation/train2017/report.md").read_text()
    assert (
        json.loads((run.folder / "evaluation/train2017/report.json").read_text())["trained_on"] == 2
    )


def test_validation_on_images_that_are_trained_on_is_refused(tmp_path, tiny_store):
    config = recipe(max_steps=1, batch={**VALIDATED, "contamination": "refuse"})
    with pytest.raises(ConfigError, match=r"2 images of the validation split train2017 are tra"):
        train(tmp_path / "run", tiny_store, config, resume=False)
    assert not (tmp_path / "run").exists()


def test_a_map_at_the_resolution_of_the_grid_is_refused(tmp_path, tiny_store):
    config = recipe(max_steps=1, loss={"attention_size": 12})
    with pytest.raises(ConfigError, match=r"attention_size of at least 24.*found 12.*headroom"):
        train(tmp_path / "run", tiny_store, config, resume=False)


def test_a_report_of_another_store_is_not_overwritten(tmp_path, tiny_store):
    run = train(tmp_path / "run", tiny_store, recipe(max_steps=1), resume=False)
    first = evaluate(run, Store(tiny_store), "train2017", num_panels=1)
    before = {path: path.read_bytes() for path in Path(first.folder).rglob("*.*")}
    other = evaluate(run, Store(copied(tiny_store, tmp_path / "other")), "train2017", num_panels=0)
    assert other.folder != first.folder
    assert {path: path.read_bytes() for path in Path(first.folder).rglob("*.*")} == before
    again = evaluate(run, Store(tmp_path / "other"), "train2017", num_panels=0)
    assert again.folder == other.folder
    assert evaluate(run, Store(tiny_store), "train2017", num_panels=1).folder == first.folder


def test_a_run_is_not_verified_and_repaired_as_a_store(tmp_path, tiny_store):
    run = train(tmp_path / "run", tiny_store, recipe(max_steps=1), resume=False)
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    with pytest.raises(StoreError, match="found the folder of a training run"):
        verify_store(run.folder)
    with pytest.raises(StoreError, match="found the folder of a training run"):
        repair_store(run.folder, (), Quiet())
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
