"""The benchmark of stores, with tiny records."""

import json
import os
import statistics
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from lens_cache.errors import ConfigError, StoreError
from pipelines.benchmark import store as benchmark
from pipelines.benchmark.random_features import RandomFeatures, RecordSizes
from pipelines.benchmark.store_peers import LitData, MosaicStreaming, SafetensorsFiles, WebDataset
from pipelines.benchmark.store_report import report_store
from pipelines.benchmark.store_ways import OurStream, OurTars, OurZarr, PlainZarr, Raw
from tests.support.stores import Quiet

SMALL = RecordSizes(name="nothing", image_tokens=6, hidden_size=8, channels=4, side=3)
ALWAYS = (Raw, OurZarr, OurTars, OurStream, PlainZarr, WebDataset, SafetensorsFiles)
IMAGES = 37  # more than a stream's buffer holds, in a number that no shard divides


def written(kind, folder):
    way = kind(folder, RandomFeatures(SMALL, IMAGES))
    way.write()
    way.open()
    return way


def reads_what_was_written(way):
    expected = [record.parts() for record in way.features]
    found = list(way.sequential())  # all at once: no record may lie in another's memory
    assert len(found) == IMAGES
    for record, parts in zip(found, expected, strict=True):
        for name, value in record.parts().items():
            assert value.dtype == torch.bfloat16
            assert torch.equal(value, parts[name])
    checksums = [record.checksum() for record in way.features]
    shuffled = [record.checksum() for record in way.shuffled(seed=3)]
    assert shuffled != checksums
    assert sorted(shuffled) == sorted(checksums)


@pytest.mark.parametrize("kind", ALWAYS)
def test_a_way_returns_what_was_written(kind, tmp_path):
    reads_what_was_written(written(kind, tmp_path))


def test_litdata_returns_what_was_written(tmp_path):
    pytest.importorskip("litdata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reads_what_was_written(written(LitData, tmp_path))


def test_mosaicml_streaming_returns_what_was_written(tmp_path):
    pytest.importorskip("streaming")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        way = written(MosaicStreaming, tmp_path)
        reads_what_was_written(way)
        way.close()


def test_random_features_are_the_same_each_time_and_differ_by_image():
    one, other = (RandomFeatures(SMALL, 3) for _ in range(2))
    checksums = [record.checksum() for record in one]
    assert checksums == [other.record(image).checksum() for image in range(3)]
    assert len(set(checksums)) == 3
    size = sum(tensor.nbytes for record in one for tensor in record.tensors())
    assert one.num_bytes() == size


@pytest.fixture
def few(monkeypatch):
    """Only the ways that are always there, and one that is not."""
    monkeypatch.setattr(benchmark, "WAYS", (*ALWAYS, LitData))
    monkeypatch.setitem(benchmark.EXTRAS, LitData, ("no_such_module", "pip install it"))
    monkeypatch.setattr(benchmark, "ready_memory", lambda size: None)


def measured(folder, **options):
    options = {"images": 4, "rounds": 3} | options
    return benchmark.measure(folder, SMALL, Quiet(), **options)


def test_a_measurement_is_complete(few, tmp_path):
    found = measured(tmp_path)
    assert [way.name for way in found.ways] == [way.name for way in ALWAYS]
    assert found.not_installed == {"litdata": "pip install it"}
    for way in found.ways:
        assert list(way.orders) == ["sequential", "shuffled"]
        assert way.disk_bytes >= found.bytes
        for order, speed in way.orders.items():
            median = statistics.median(speed.seconds)
            assert len(speed.seconds) == 3
            assert speed.mb_per_second == pytest.approx(found.bytes / median / 1e6)
            assert speed.records_per_second == pytest.approx(4 / median)
            assert speed.slowest <= speed.mb_per_second <= speed.fastest
            raw = found.ways[0].orders[order].mb_per_second
            assert speed.ratio == pytest.approx(speed.mb_per_second / raw)
    shown = report_store(found)
    document = json.loads(json.dumps(shown.document))
    assert (
        document["ways"][1]["orders"]["shuffled"]["ratio"] == found.ways[1].orders["shuffled"].ratio
    )
    lines = shown.text.splitlines()
    assert all(any(line.startswith(way.name) for line in lines) for way in ALWAYS)
    assert any(
        line.startswith("litdata") and "not installed: pip install it" in line for line in lines
    )


def test_the_clock_runs_while_a_way_reads_and_at_no_other_time(few, tmp_path, monkeypatch):
    now, step = [0.0], {"open": 1000.0, "read": 1.0}

    class Slow(Raw):
        name = "slow"

        def open(self):
            now[0] += step["open"]
            super().open()

        def read(self, image):
            now[0] += step["read"]
            return super().read(image)

    class Slower(Slow):
        name = "slower"

        def read(self, image):
            now[0] += 3 * step["read"]
            return super().read(image)

    monkeypatch.setattr(benchmark, "WAYS", (Slow, Slower))
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    slow, slower = measured(tmp_path).ways
    for order in benchmark.ORDERS:
        assert slow.orders[order].seconds == (4.0, 4.0, 4.0)
        assert slower.orders[order].seconds == (16.0, 16.0, 16.0)
        assert slower.orders[order].ratio == 0.25


class Forgetful(Raw):
    name = "forgetful"

    def read(self, image):
        return super().read(0)


class Lazy(Raw):
    name = "lazy"

    def open(self):
        super().open()
        self._map = torch.from_file(
            str(self.folder / "records.bin"), size=self._ends[-1], dtype=torch.uint8
        ).numpy()

    def read(self, image):
        record = super().read(image)
        values = self._map[self._ends[image] : self._ends[image + 1]].view(np.uint16)
        tokens = torch.from_numpy(values[: record.image_tokens.numel()]).view(torch.bfloat16)
        return type(record)(tokens, record.image_embedding, record.text_tokens)


@pytest.mark.parametrize(("kind", "message"), [(Forgetful, "does not return"), (Lazy, "a view of")])
def test_a_way_that_cheats_is_found_out(kind, message, few, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "WAYS", (Raw, kind))
    with pytest.raises(StoreError, match=f"{kind.name} .*{message}|{kind.name} returns {message}"):
        measured(tmp_path)


def test_cold_passes_drop_a_ways_own_files(few, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "WAYS", (Raw, OurZarr))
    dropped = []

    def drop(descriptor, *arguments):
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        assert path not in Path("/proc/self/maps").read_text()  # the kernel keeps what is mapped
        dropped.append(arguments)

    monkeypatch.setattr(os, "posix_fadvise", drop)
    assert not measured(tmp_path / "warm", rounds=2).cold
    once = len(dropped)  # before the files are first read
    assert once > 2
    dropped.clear()
    assert measured(tmp_path / "cold", rounds=2, cold=True).cold
    assert dropped == [(0, 0, os.POSIX_FADV_DONTNEED)] * (once + 2 * 2 * once)


def test_a_folder_that_holds_something_is_left_alone(few, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="expected no folder or an empty one"):
        benchmark.benchmark_store(Quiet(), images=2, rounds=1, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_written_is_kept_only_if_asked_for(few, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SMALL_SIZE", SMALL)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(benchmark.tempfile, "tempdir", str(scratch))
    benchmark.benchmark_store(Quiet(), images=2, rounds=1, out=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == len(ALWAYS)
    benchmark.benchmark_store(Quiet(), images=2, rounds=1)
    assert list(scratch.iterdir()) == []
