"""What a training tells, and what it does with bad input."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.callbacks import TQDMProgressBar

from lens_cache.errors import StoreError, StoreMismatchError, TrainingError
from lens_cache.store.manifest import Manifest
from lens_cache.store.store import Store
from lens_cache.training.data import evaluation_draws
from lens_cache.training.run import Run
from lens_cache.training.sampling import sources
from pipelines.training.callbacks import Bar
from pipelines.training.train import train
from tests.integration.test_recipe import content, in_processes, logged, rows
from tests.integration.test_training import recipe
from tests.support.stores import copied

VALIDATED = {"validation_split": "train2017", "limit_validation_images": 3}


@pytest.fixture(scope="module")
def watched(tmp_path_factory, tiny_store):
    """A run of six steps with two validations; do not write into it."""
    folder = tmp_path_factory.mktemp("runs") / "watched"
    config = recipe(max_steps=6, validate_every=3, batch=VALIDATED, log_every=2, pictures=2)
    return train(folder, tiny_store, config, resume=False)


def test_losses_by_part_and_dataset_and_what_the_model_does_are_logged(watched):
    names = rows(watched.folder)[0].keys()
    for loss in ("dice", "bce", "attention"):
        assert len(logged(watched.folder, f"train/{loss}")) == 3
        assert len(logged(watched.folder, f"train/{loss}/coco")) == 3
    for name in ("train/gradient_norm", "train/keypoints", "lr-AdamW"):
        assert all(value >= 0 for value in logged(watched.folder, name))
        assert any(value > 0 for value in logged(watched.folder, name))
    assert all(0 <= share <= 1 for share in logged(watched.folder, "train/keypoints_inside"))
    whole, coco = (logged(watched.folder, f"val/giou{group}") for group in ("", "/coco"))
    assert len(whole) == 2
    assert coco == whole
    assert {name for name in names if name.startswith("val/ciou/kind/")}


def test_the_speed_is_logged(watched):
    images, questions, step, waiting = (
        logged(watched.folder, f"speed/{name}")
        for name in ("images_per_s", "questions_per_s", "step_s", "waiting")
    )
    assert len(images) == 3
    for i, q, s, w in zip(images, questions, step, waiting, strict=True):
        assert i * s == pytest.approx(2)  # images of a step
        assert 2 <= round(q * s, 3) <= 4
        assert 0 < w < 1


def test_the_same_answers_are_drawn_at_every_validation(watched):
    folders = sorted((watched.folder / "pictures").iterdir())
    assert [folder.name for folder in folders] == ["step_000003", "step_000006"]
    first, last = ([path.name for path in sorted(folder.iterdir())] for folder in folders)
    assert first == last
    assert len(first) == 2
    pictures = [(folder / first[0]).read_bytes() for folder in folders]
    assert pictures[0] != pictures[1]  # the title tells the IoU, the map moves


def test_the_report_holds_everything_and_needs_nothing(watched):
    page = (watched.folder / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4
    # An SVG names its namespaces by URL; nothing loads them.
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page).replace("http-equiv", "")
    for text in ("by kind", "norm of the gradient", "max_steps: 6", "learning rate", "torch"):
        assert text in page, text
    assert f"{100 * logged(watched.folder, 'val/giou')[-1]:.1f}" in page


def test_without_a_terminal_a_validation_prints_nothing(tmp_path, tiny_store):
    done = in_processes(tmp_path / "run", tiny_store, recipe(max_steps=2, batch=VALIDATED))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Validation" not in done.stderr
    assert "Epoch 0" in done.stderr


def test_the_bar_shows_giou_in_percent(monkeypatch):
    shown = {"v_num": 0, "val/giou": torch.tensor(0.4034)}
    monkeypatch.setattr(TQDMProgressBar, "get_metrics", lambda *_: dict(shown))
    assert Bar(1).get_metrics(None, None) == {"v_num": 0, "gIoU, %": "40.3"}


def test_a_loss_that_is_not_finite_names_its_questions_and_keeps_them(
    tmp_path, tiny_store, monkeypatch
):
    store = Store(tiny_store)
    bad = store.images("train2017")[1]
    read = Store.read

    def poisoned(self, image, queries, layer):
        features = read(self, image, queries, layer)
        if image == bad:
            features.image_tokens[3, 5] = float("nan")
        return features

    monkeypatch.setattr(Store, "read", poisoned)
    with pytest.raises(TrainingError) as error:
        train(tmp_path / "run", tiny_store, recipe(max_steps=20), resume=False)
    image_id = store.catalogue.image_id(bad)
    message = str(error.value)
    assert "the loss is not finite" in message
    assert f"the stored hidden states of the image {image_id} are not finite" in message
    assert "lens-cache verify" in message
    assert "\n" not in message
    command = message.partition('python -c "')[2].removesuffix('"')
    shown = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    ).stdout
    kept = torch.load(tmp_path / "run/failed_batch.pt", weights_only=True)
    blamed = [one for one in kept["queries"] if one["losses"]["dice"] != one["losses"]["dice"]]
    assert {one["image_id"] for one in blamed} == {image_id}
    for one in blamed:
        assert one["query_id"] in message
        assert one["query_id"] in shown
    planned = {
        store.plan.query(query).query_id: store.plan.query(query)
        for query in store.plan.query_range(bad)
    }
    assert all(planned[one["query_id"]].instruction == one["instruction"] for one in blamed)
    place = [image for image, _ in kept["draws"]].index(bad)
    assert kept["features"]["image_tokens"][place, 3, 5].isnan()
    assert len(kept["targets"]["masks"]) == len(kept["queries"])


@pytest.mark.slow
def test_every_process_stops_at_the_loss_of_one(tmp_path, tiny_store):
    source = """
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
import pipelines.training.module as training
from pipelines.cli import main

def step(self, batch, number, before=training.LensModule.training_step):
    if number == 3 and self.global_rank == 1:
        batch.features.image_embeddings.fill_(float("inf"))
    return before(self, batch, number)

training.LensModule.training_step = step
if __name__ == "__main__":
    main()
"""
    config = recipe(max_steps=50, batch={"images": 1}, devices=2, strategy="ddp")
    done = in_processes(tmp_path / "run", tiny_store, config, source=source)
    assert done.returncode != 0
    assert "in another process, whose message names" in done.stderr
    assert "SAM's embedding of the image" in done.stderr
    assert "Traceback" not in done.stderr
    kept = torch.load(tmp_path / "run/failed_batch_of_process_1.pt", weights_only=True)
    assert kept["step"] == 3


@pytest.fixture
def incomplete(tmp_path, tiny_store):
    """A store whose second shard of three is only half there."""
    root = copied(tiny_store, tmp_path / "store")
    dataclasses.replace(Manifest.load(root), complete=False).save(root)
    (root / "commits/shared/000000.json").unlink()
    (root / "commits/image_embeddings/000001.json").unlink()
    return root


def test_an_unfinished_store_is_used_only_if_told_so(tmp_path, incomplete):
    with pytest.raises(StoreError, match=r"not finished.*set batch\.incomplete_store=use"):
        train(tmp_path / "run", incomplete, recipe(), resume=False)
    shutil.rmtree(incomplete / "image_embeddings/c/1")
    store = Store(incomplete, incomplete=True)
    config = recipe(
        max_steps=8,
        batch={"incomplete_store": "use", "loader_workers": 1, "validation_split": "train2017"},
    )
    usable = {0, 1, 4}  # two images a shard
    assert set(store.images("train2017")) == usable
    assert {image for s in sources(store, config.batch) for image in s.images} == usable
    assert {draw.image for draw in evaluation_draws(store, "train2017", None)} == usable
    run = train(tmp_path / "run", incomplete, config, resume=False)
    used = json.loads((run.folder / "used_shards.json").read_text())
    assert used == {"shards": [0, 2], "of": 3}


def test_what_is_extracted_meanwhile_does_not_change_a_resumed_run(
    tmp_path, tiny_store, incomplete
):
    batch = {"incomplete_store": "use", "images": 1}
    config = recipe(max_steps=6, batch=batch)
    whole = train(tmp_path / "whole", incomplete, config, resume=False)
    train(tmp_path / "again", incomplete, recipe(max_steps=2, batch=batch), resume=False)
    again = train(tmp_path / "again", tiny_store, config, resume=True)
    before, after = content(whole.folder)["state_dict"], content(again.folder)["state_dict"]
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_without_its_first_shard_an_unfinished_store_is_refused(incomplete):
    (incomplete / "commits/hidden_states/000000.json").unlink()
    with pytest.raises(StoreError, match="its first shard, which has the prefix"):
        Store(incomplete, incomplete=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": {"hidden_size": 32}}, "hidden size is 64 in the store and 32 here"),
        ({"grid": (6, 6)}, "image tokens is 144 in the store and 36 here"),
        ({"sam_architecture": {"transformer_dim": 32}}, r"SAM embedding is \[64, 16, 16\]"),
    ],
)
def test_a_head_of_other_sizes_is_refused_by_name(
    tmp_path, tiny_store, monkeypatch, change, message
):
    ((name, value),) = change.items()
    frozen = Store(tiny_store).frozen()
    if name == "text_config":
        value = {**frozen.text_config, **value}
    if name == "sam_architecture":
        value = dataclasses.replace(frozen.sam_architecture, **value)
    other = dataclasses.replace(frozen, **{name: value})
    monkeypatch.setattr(Store, "frozen", lambda self: other)
    with pytest.raises(StoreMismatchError, match=message):
        train(tmp_path / "run", tiny_store, recipe(), resume=False)
    assert not (tmp_path / "run").exists()


def test_checkpoints_in_a_folder_load_as_usual(watched, tmp_path):
    """DeepSpeed writes such."""
    folder = copied(watched.folder, tmp_path / "run")
    path = folder / "checkpoints/best.ckpt"
    weights = torch.load(path, weights_only=True)["state_dict"]
    path.unlink()
    path.mkdir()
    torch.save({"state_dict": weights}, path / "weights.ckpt")
    model = Run.open(folder).load_model()
    expected = watched.load_model().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
