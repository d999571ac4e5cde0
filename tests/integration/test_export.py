"""Exporting a run: the same masks from a folder that needs neither run nor store."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lens_cache.config.load import load_config
from lens_cache.config.train import TrainConfig
from lens_cache.errors import CheckpointError, ConfigError, StoreMismatchError
from lens_cache.predictor import LensPredictor
from lens_cache.predictor.trained_head import CALIBRATION_FILE, TrainedHead, trained_weights
from lens_cache.store.store import Store
from lens_cache.toy.random_checkpoints import write_tiny_checkpoints
from lens_cache.training.run import Run
from pipelines.evaluation.evaluate import evaluate
from pipelines.inference import export as export_module
from pipelines.inference.export import export
from pipelines.training.train import train
from tests.support.pictures import colours

PICTURE = colours(50, 20)


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_store):
    folder = tmp_path_factory.mktemp("export") / "run"
    config = load_config(TrainConfig, None, ["preset=tiny", "trainer.max_steps=4"])
    train(folder, tiny_store, config, resume=False)
    evaluate(Run.open(folder), Store(tiny_store), "train2017", num_panels=0, calibrate=True)
    return folder


@pytest.fixture(scope="module")
def head(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("head") / "head"
    export(run, folder, public=False)
    return folder


@pytest.fixture
def copy(head, tmp_path):
    return shutil.copytree(head, tmp_path / "copy")


def change(folder, edit):
    document = json.loads((folder / "lens.json").read_text())
    edit(document)
    (folder / "lens.json").write_text(json.dumps(document))


def test_an_exported_head_gives_the_masks_of_its_run(run, head, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = LensPredictor(run, device="cpu")(PICTURE, ["the dog", "all things"])
    found = LensPredictor.from_pretrained(head, device="cpu")(PICTURE, ["the dog", "all things"])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
        assert (one.score, one.calibrated) == (other.score, True)


def test_only_what_was_trained_is_written(run, head):
    assert {path.name for path in head.iterdir()} == {"model.safetensors", "lens.json", "README.md"}
    weights = load_file(head / "model.safetensors")
    model = Run.open(run).load_model()
    assert set(weights) == set(trained_weights(model))
    assert all(torch.equal(weights[name], value) for name, value in trained_weights(model).items())


def test_the_card_has_the_scores_of_the_evaluation(run, head):
    report = json.loads((run / "evaluation/train2017/report.json").read_text())
    card = (head / "README.md").read_text()
    giou = report["overall"]["giou"]["value"]
    assert f"| {100 * giou:.1f} (" in card
    assert f"| {report['trained_on']} of its images |" in card
    assert "calibrated on `train2017`" in card
    assert "library_name: lens-cache" in card
    scores = json.loads((head / "lens.json").read_text())["scores"]["train2017"]
    assert scores["giou"] == report["overall"]["giou"]


def test_a_run_that_was_not_evaluated_has_no_scores_and_no_calibration(run, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare")
    shutil.rmtree(bare / "evaluation")
    (bare / CALIBRATION_FILE).unlink()
    report = export(bare, tmp_path / "head", public=False)
    assert "no scores yet" in report.text
    assert "no calibration" in report.text
    found = LensPredictor.from_pretrained(tmp_path / "head", device="cpu")(PICTURE, "the dog")
    assert not found.calibrated
    assert 0 <= found.score <= 1


def test_part_of_a_split_is_no_score(run, tmp_path, tiny_store):
    part = shutil.copytree(run, tmp_path / "part")
    shutil.rmtree(part / "evaluation")
    evaluate(Run.open(part), Store(tiny_store), "train2017", num_panels=0, limit=2)
    export(part, tmp_path / "head", public=False)
    assert TrainedHead.from_pretrained(tmp_path / "head").scores == {}


def test_other_frozen_models_are_refused_by_name(head, tmp_path):
    write_tiny_checkpoints(tmp_path / "checkpoints", seed=7)
    root = f"encoders.root={tmp_path / 'checkpoints'}"
    with pytest.raises(StoreMismatchError, match=r"hidden_states: weights is .* in the head and"):
        LensPredictor.from_pretrained(head, overrides=(root,), device="cpu")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "lens.json").unlink(), r"lens\.json is missing"),
        (lambda f: (f / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda f: (f / "lens.json").write_text("{"), "is damaged"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 40), "is damaged"),
        (lambda f: change(f, lambda d: d.update(format=99)), "expected format 1, found 99"),
        (lambda f: change(f, lambda d: d.pop("encoders")), "is damaged"),
        (lambda f: change(f, lambda d: d["training"].update(layer=3)), "is damaged"),
        (lambda f: change(f, lambda d: d["calibration"].pop("ious")), "is damaged"),
    ],
)
def test_a_damaged_export_is_named(copy, damage, message):
    damage(copy)
    with pytest.raises(CheckpointError, match=message):
        LensPredictor.from_pretrained(copy, device="cpu")


def test_weights_that_do_not_fit_are_named(copy):
    weights = load_file(copy / "model.safetensors")
    first = next(iter(weights))
    weights.pop(first)
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"missing weights \(1\): {first}"):
        LensPredictor.from_pretrained(copy, device="cpu")


def test_a_folder_that_has_something_is_not_overwritten(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError):
        export(run, tmp_path, public=False)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("name", ["nowhere", "./nowhere", "/nowhere/head", "a/b/c"])
def test_a_head_that_is_nowhere_is_refused_without_asking_the_hub(name):
    with pytest.raises(CheckpointError, match="expected a folder, a hub id"):
        TrainedHead.from_pretrained(name)


def test_pushing_uploads_the_folder_once(run, tmp_path, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, name, *, private, exist_ok):
            calls.append(("create", name, private, exist_ok))

        def upload_folder(self, *, repo_id, folder_path):
            calls.append(("upload", repo_id, sorted(p.name for p in folder_path.iterdir())))
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(export_module, "HfApi", Hub)
    report = export(run, tmp_path / "head", push="me/lens", public=False)
    assert calls == [
        ("create", "me/lens", True, True),
        ("upload", "me/lens", ["README.md", "lens.json", "model.safetensors"]),
    ]
    assert "https://hub/me/lens" in report.text
    assert 'from_pretrained("me/lens")' in (tmp_path / "head/README.md").read_text()

    def refuse(*_, **__):
        raise RuntimeError("401 Unauthorized")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    with pytest.raises(CheckpointError, match="401 Unauthorized; log in"):
        export(run, tmp_path / "second", push="me/lens", public=False)
    assert (tmp_path / "second/lens.json").exists()


def test_a_trained_sam_decoder_travels_with_the_head(run, tmp_path, tiny_store):
    config = load_config(
        TrainConfig,
        None,
        ["preset=tiny", "trainer.max_steps=2", "model.train_mask_decoder=true"],
    )
    train(tmp_path / "run", tiny_store, config, resume=False)
    export(tmp_path / "run", tmp_path / "head", public=False)
    expected = LensPredictor(tmp_path / "run", device="cpu")(PICTURE, "the dog")
    found = LensPredictor.from_pretrained(tmp_path / "head", device="cpu")(PICTURE, "the dog")
    np.testing.assert_array_equal(found.logits, expected.logits)
    weights = TrainedHead.from_pretrained(tmp_path / "head").weights
    assert any(name.startswith("decoder.mask_decoder.transformer") for name in weights)


def test_settings_of_the_head_are_those_of_the_run(run, head):
    found = TrainedHead.from_pretrained(head)
    expected = TrainedHead.of_run(run)
    assert found.config == expected.config
    assert found.fingerprints == json.loads(json.dumps(expected.fingerprints))
    assert found.calibration == expected.calibration
    assert dataclasses.asdict(found.extract_config().encoders) == dataclasses.asdict(
        expected.extract_config().encoders
    )
