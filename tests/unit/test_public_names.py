"""The names that ``import lens_cache as lc`` offers."""

import subprocess
import sys

import pytest

import lens_cache as lc
from lens_cache.errors import CheckpointError, ConfigError, StoreError

NAMES = {
    "Store": "lens_cache.store.store",
    "Plan": "lens_cache.plan.plan",
    "LensModel": "lens_cache.models.lens",
    "LensAgent": "lens_cache.agent.agent",
    "LensPredictor": "lens_cache.predictor.predictor",
    "Segmentation": "lens_cache.predictor.segmentation",
    "Run": "lens_cache.training.run",
    "load_config": "lens_cache.config.load",
    "TrainConfig": "lens_cache.config.train",
    "ExtractConfig": "lens_cache.config.extract",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_an_attribute_of_the_package(name):
    assert getattr(lc, name).__module__ == NAMES[name]
    assert name in lc.__all__
    assert name in dir(lc)


def test_every_listed_name_exists():
    assert [name for name in lc.__all__ if not hasattr(lc, name)] == []


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'lens_cache' has no attribute 'Stroe'"):
        _ = lc.Stroe


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, lens_cache; dir(lens_cache); print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    heavy = {"torch", "numpy", "transformers", "zarr", "pydantic", "lightning", "ray"}
    assert heavy & set(found.stdout.split()) == set()


def test_load_config_takes_a_path_as_text(tmp_path):
    file = tmp_path / "train.yaml"
    file.write_text("preset: tiny\ntrainer: {max_steps: 7}\n")
    assert lc.load_config(lc.TrainConfig, str(file)).trainer.max_steps == 7
    with pytest.raises(ConfigError, match="reading the configuration"):
        lc.load_config(lc.TrainConfig, str(tmp_path / "missing.yaml"))


def test_a_missing_store_run_or_plan_given_as_text_is_named(tmp_path):
    missing = str(tmp_path / "missing")
    with pytest.raises(StoreError, match=missing):
        lc.Store(missing)
    with pytest.raises(StoreError, match=missing):
        lc.Plan.load(missing)
    with pytest.raises(CheckpointError, match=missing):
        lc.Run.open(missing)
    with pytest.raises(CheckpointError, match=missing):
        lc.LensPredictor(missing)
