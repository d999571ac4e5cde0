"""A step is divided into as few batches as fit in the memory of a GPU."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch

import pipelines.training.card as card
from lens_cache.config.train import BatchConfig, ModelConfig, OptimizerConfig, TrainConfig
from lens_cache.errors import ConfigError
from lens_cache.training.fit_memory import fit_batch
from pipelines.benchmark.models import FULL_SIZE
from pipelines.benchmark.train_ways import frozen_parts
from pipelines.training.resume import resumed_settings


@pytest.fixture(scope="module")
def frozen():
    return frozen_parts(FULL_SIZE)


COCO = 480 * 640


def fitted(frozen, gib, batch=None, pixels=COCO, **optimizer):
    settings = batch or BatchConfig()
    model = ModelConfig(layer=14)
    return fit_batch(settings, gib * 2**30, model, OptimizerConfig(**optimizer), frozen, pixels)


@pytest.mark.parametrize(
    ("gib", "images", "accumulate"),
    [(16, 2, 10), (24, 10, 2), (40, 20, 1), (80, 20, 1), (141, 20, 1)],
)
def test_the_step_of_the_paper_on_known_cards(frozen, gib, images, accumulate):
    batch = fitted(frozen, gib)
    assert (batch.images, batch.accumulate) == (images, accumulate)
    assert dataclasses.replace(batch, images=2, accumulate=10) == BatchConfig()


def test_what_fits_is_a_divisor_and_at_least_one(frozen):
    assert fitted(frozen, 24, BatchConfig(images=7, accumulate=1)).images == 7
    assert fitted(frozen, 24, BatchConfig(images=23, accumulate=1)).images == 1
    assert fitted(frozen, 8).images == 1
    # Masks of 12 megapixels take more than all the rest of an image.
    assert fitted(frozen, 24, pixels=4000 * 3000).images < fitted(frozen, 24).images
    # Smaller moments leave room for more images.
    assert fitted(frozen, 16, states="8bit").images > fitted(frozen, 16).images


def cards(monkeypatch, *gib):
    found = [SimpleNamespace(total_memory=one * 2**30, name=f"GPU of {one}") for one in gib]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(found))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: found[number])


PLAN = SimpleNamespace(images=pa.table({"width": [640] * 3, "height": [480] * 3}))


def changed(frozen, **settings):
    told = []
    config = TrainConfig(model=ModelConfig(layer=14))
    trainer = dataclasses.replace(config.trainer, **settings)
    config = dataclasses.replace(config, trainer=trainer)
    return card.with_fitting_batches(config, PLAN, frozen, told.append).batch, told


def test_the_smallest_card_decides_and_the_user_reads_it(frozen, monkeypatch):
    cards(monkeypatch, 80, 24)
    batch, (line,) = changed(frozen)
    assert (batch.images, batch.accumulate) == (10, 2)
    for word in ("2 x 10 images on GPU of 24", "instead of 10 x 2", "batch.fit_memory=false"):
        assert word in line


def test_without_a_gpu_or_with_several_machines_nothing_changes(frozen, monkeypatch):
    assert changed(frozen) == (BatchConfig(), [])
    cards(monkeypatch, 80)
    assert changed(frozen, accelerator="cpu") == (BatchConfig(), [])
    assert changed(frozen, num_nodes=2) == (BatchConfig(), [])


def test_a_resumed_run_keeps_its_batches():
    ran = TrainConfig(batch=BatchConfig(images=20, accumulate=1, split="train"))
    run = SimpleNamespace(config=ran, folder=Path("run"))
    same = TrainConfig(batch=BatchConfig())
    assert resumed_settings(run, same).batch == ran.batch
    for other in (BatchConfig(accumulate=5), BatchConfig(fit_memory=False)):
        with pytest.raises(ConfigError, match="the settings differ"):
            resumed_settings(run, TrainConfig(batch=other))
