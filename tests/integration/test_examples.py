"""The scripts of ``examples/``, and the Python API that they show."""

import subprocess
import sys

import pytest
import torch

import lens_cache as lc
from lens_cache.errors import StoreError
from pipelines.training.train import train
from tests.support import REPOSITORY

TINY = "preset=tiny", "batch.images=2", "batch.split=train2017", "trainer.accelerator=cpu"


def run(script, *arguments):
    """Run an example as a user does; returns its standard output."""
    found = subprocess.run(
        [sys.executable, REPOSITORY / "examples" / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_store):
    config = lc.load_config(
        lc.TrainConfig, None, [*TINY, "trainer.max_steps=2", "batch.loader_workers=0"]
    )
    return train(tmp_path_factory.mktemp("runs") / "run", tiny_store, config, resume=False)


def test_iterate_store_prints_every_query(tiny_store):
    store = lc.Store(tiny_store)
    out = run("iterate_store.py", tiny_store, "--limit", 100)
    assert out.startswith(f"{len(store)} images; layers (4,)")
    assert out.count("text tokens") == store.plan.num_queries
    assert out.count("SAM embedding") == len(store)


def test_train_step_trains(tiny_store):
    settings = [part for text in TINY[1:] for part in ("--set", text)]
    arguments = ["--preset", "tiny", "--steps", 3, "--set", "batch.loader_workers=0", *settings]
    out = run("train_step.py", tiny_store, *arguments)
    losses = [float(line.split()[3]) for line in out.splitlines()]
    assert len(losses) == 3
    assert len(set(losses)) == 3
    assert all(0 < loss < 100 for loss in losses)


def test_predict_writes_mask_and_overlay_of_each_instruction(trained, tiny_coco, tmp_path):
    image = next((tiny_coco / "train2017").glob("*.jpg"), None) or next(tiny_coco.rglob("*.png"))
    out = run(
        "predict.py", image, "the dog", "the tree", "--run", trained.folder, "--out", tmp_path
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mask_0.png",
        "mask_1.png",
        "overlay_0.png",
        "overlay_1.png",
    ]
    assert out.count("of the image") == 2


def test_a_store_is_iterated_image_by_image(tiny_store):
    store = lc.Store(str(tiny_store))
    records = list(store)
    assert len(records) == len(store) == store.plan.num_images
    for index, record in enumerate(records):
        assert record.image == store.plan.image(index)
        assert list(record.queries) == store.plan.queries_of(index)
        expected = store.read(index, store.plan.query_range(index), 4)
        assert torch.equal(record.features.image_tokens, expected.image_tokens)
        assert len(record.features.text_tokens) == len(record.queries)
    assert len(list(store.records("train2017"))) == len(store.images("train2017"))


def test_records_of_an_unknown_split_or_layer_are_refused_at_once(tiny_store):
    store = lc.Store(tiny_store)
    with pytest.raises(StoreError, match="choosing split 'nowhere'"):
        store.records("nowhere")
    with pytest.raises(StoreError, match=r"expected one of the layers \[4\], found 5"):
        store.records(layer=5)
