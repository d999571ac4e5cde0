import json
from types import SimpleNamespace

import pytest

from lens_cache.config.extract import ExtractConfig, WorkersConfig
from pipelines.extraction.duration import duration

FOUND = SimpleNamespace(missing_images=7200, missing_flops=7200e9)


def log(root, name, *shards, end=""):
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    lines = [json.dumps({"images": images, "wall": wall}) for images, wall in shards]
    (folder / "shards.jsonl").write_text("\n".join(lines) + "\n" + end)


def test_a_rate_that_is_told_counts_per_gpu(tmp_path):
    log(tmp_path, "a", (10, 1.0))
    found = duration(tmp_path, FOUND, ExtractConfig(), gpus=4, told=0.5)
    assert (found.source, found.images_per_second, found.hours) == ("given", 2.0, 1.0)


def test_the_rate_of_the_stores_own_shards_is_measured(tmp_path):
    """Over all runs; the half line of a killed driver does not count; two workers share a GPU."""
    log(tmp_path, "a", (10, 4.0), (10, 6.0))
    log(tmp_path, "b", (20, 10.0), end='{"images": 99')
    config = ExtractConfig(workers=WorkersConfig(gpus_per_worker=0.5))
    found = duration(tmp_path, FOUND, config, gpus=3, told=None)
    assert found.source == "measured"
    assert found.images_per_second == pytest.approx(2.0 * 3 / 0.5)
    assert found.hours == pytest.approx(7200 / 12 / 3600)
    assert "3 shards" in found.why


def test_without_any_rate_operations_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pipelines.extraction.duration.measure_flops_per_second", lambda dtype: (5e12, "cpu")
    )
    found = duration(tmp_path, FOUND, ExtractConfig(), gpus=2, told=None)
    assert found.source == "estimated"
    assert found.images_per_second == pytest.approx(2 * 5e12 * 0.4 / 1e9)
    assert "--rate" in found.why


def test_nothing_missing_takes_no_time(tmp_path):
    done = SimpleNamespace(missing_images=0, missing_flops=0.0)
    assert duration(tmp_path, done, ExtractConfig(), gpus=1, told=3.0).hours == 0
