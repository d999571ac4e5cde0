"""Invariant I4: training from arrays, from tars and from the frozen models is the same training."""

import csv

import pytest
import torch

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.sam import SamEncoder
from lens_cache.errors import ConfigError
from lens_cache.features.types import ImageFeatures
from lens_cache.images.decode import read_image
from lens_cache.images.geometry import image_to_square
from lens_cache.store.convert import convert
from lens_cache.store.store import Store
from pipelines.evaluation.evaluate import evaluate
from pipelines.training.train import train
from tests.integration.test_training import assert_same_weights, recipe, weights

LOSSES = ("train/total", "train/dice", "train/bce", "train/attention")


@pytest.fixture(scope="module")
def tar_store(tmp_path_factory, tiny_store):
    root = tmp_path_factory.mktemp("tars") / "store"
    convert(tiny_store, root, wanted="webdataset")
    return root


def losses(run):
    """Return what was logged at every step."""
    with (run.folder / "logs/000/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["train/total"]]
    return [[float(row[name]) for name in LOSSES] for row in rows]


@pytest.fixture
def online(monkeypatch, tiny_coco, tiny_checkpoints):
    """Let every read of a store run the frozen models on the photograph instead."""
    llava = LlavaEncoder.from_checkpoint(
        tiny_checkpoints / "llava", layers=[4], dtype=torch.float32
    )
    sam = SamEncoder.from_checkpoint(tiny_checkpoints / "sam.pth", dtype=torch.float32)
    images = []

    def read(self, image, queries, layer):
        images.append(image)
        planned = self.plan.image(image)
        pixels = read_image((tiny_coco / planned.path).read_bytes())
        square = image_to_square(pixels, self.manifest.side)
        tokens = [llava.prompt.token_ids(self.plan.query(q).question).text_ids for q in queries]
        states = llava.encode(square, tokens)
        return ImageFeatures(
            prefix=states.prefix[layer],
            image_tokens=states.image_tokens[layer],
            text_tokens=states.text_tokens[layer],
            image_embedding=sam.encode(square, width=planned.width, height=planned.height),
        )

    monkeypatch.setattr(Store, "read", read)
    return images


def test_both_formats_and_an_online_forward_train_alike(tmp_path, tiny_store, tar_store, request):
    config = recipe(max_steps=4)
    arrays = train(tmp_path / "arrays", tiny_store, config, resume=False)
    tars = train(tmp_path / "tars", tar_store, config, resume=False)
    assert len(losses(arrays)) == 4
    assert losses(tars) == losses(arrays)
    assert_same_weights(weights(tars), weights(arrays))
    images = request.getfixturevalue("online")
    forward = train(tmp_path / "forward", tiny_store, config, resume=False)
    assert len(images) >= 8
    for one, other in zip(losses(forward), losses(arrays), strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_a_streamed_training_resumes_and_can_be_evaluated(tmp_path, tiny_store, tar_store):
    batch = {"order": "stream", "shuffle_buffer": 3, "validation_split": "train2017"}
    config = recipe(max_steps=6, batch=batch)
    whole = train(tmp_path / "a", tar_store, config, resume=False)
    train(tmp_path / "b", tar_store, recipe(max_steps=4, batch=batch), resume=False)
    again = train(tmp_path / "b", tar_store, config, resume=True)
    assert torch.load(again.checkpoint("last"), weights_only=True)["global_step"] == 6
    assert_same_weights(weights(again), weights(whole))
    found = [
        evaluate(whole, Store(root), "train2017", num_panels=0).overall.giou.value
        for root in (tiny_store, tar_store)
    ]
    assert found[0] == found[1]


def test_arrays_cannot_be_streamed(tmp_path, tiny_store):
    config = recipe(batch={"order": "stream"})
    with pytest.raises(ConfigError, match=r"lens-cache convert STORE DEST --format webdataset"):
        train(tmp_path / "run", tiny_store, config, resume=False)
    assert not (tmp_path / "run").exists()
