"""Every shard records what its rounding depends on, and a second kind of device is refused."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import torch

import pipelines.extraction.runners as runners
from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.sam import SamEncoder
from lens_cache.errors import StoreMismatchError
from lens_cache.extraction.computation import deterministic, device_kind
from lens_cache.extraction.extractor import ShardExtractor
from lens_cache.store.commits import Commit, commit_path
from lens_cache.store.convert import convert
from lens_cache.store.folder import StoreFolder
from lens_cache.store.layout import GROUPS
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from pipelines.extraction.inspection import inspection
from tests.support.stores import Quiet, assert_same, copied, extracted, settings

OTHER = "NVIDIA A100-SXM4-40GB"


def recorded(root, group, shard, **computed):
    """Record that a shard was computed otherwise; with nothing, as earlier versions did."""
    commit = Commit.load(root, group, shard)
    computed = commit.computed | computed if computed else {}
    dataclasses.replace(commit, computed=computed).save(root)


@pytest.fixture
def half(tmp_path, tiny_store):
    """A store with one shard that was computed on a GPU, and one that is missing."""
    root = copied(tiny_store, tmp_path / "half")
    for group in GROUPS:
        recorded(root, group, 0, device=OTHER)
        commit_path(root, group, 1).unlink()
    return root


@pytest.mark.parametrize("batch", [None, 2])
def test_every_shard_says_how_it_was_computed(tmp_path, tiny_coco, tiny_checkpoints, batch):
    root = tmp_path / "s"
    extracted(root, settings(tiny_coco, tiny_checkpoints, images_per_batch=batch))
    shards = Store(root).catalogue.num_shards
    for group in GROUPS:
        for shard in range(shards):
            computed = Commit.load(root, group, shard).computed
            assert computed["device"] == device_kind("cpu") != "CPU ()"
            assert computed["torch"] == torch.__version__
            assert computed["images_per_batch"] == str(batch or 1)
            assert (computed["threads"], computed["compile"]) == ("1", "false")
            assert computed["deterministic"] == "false"


def test_a_conversion_keeps_how_a_store_was_computed(tmp_path, tiny_store):
    convert(tiny_store, tmp_path / "tars", wanted="webdataset")
    for group in GROUPS:
        assert StoreFolder(tmp_path / "tars").computed(group) == StoreFolder(tiny_store).computed(
            group
        )


def test_a_second_kind_of_device_is_refused(half, tiny_coco, tiny_checkpoints):
    with pytest.raises(StoreMismatchError) as error:
        extracted(half, settings(tiny_coco, tiny_checkpoints))
    message = str(error.value)
    assert "\n" not in message
    for word in (OTHER, device_kind("cpu"), "workers.mixed_devices=allow"):
        assert word in message
    assert not commit_path(half, GROUPS[0], 1).exists()


def test_a_second_kind_of_device_is_allowed_and_recorded(half, tiny_coco, tiny_checkpoints):
    extracted(half, settings(tiny_coco, tiny_checkpoints, mixed_devices="allow"))
    assert verify_store(half).problems == []
    shards = Store(half).catalogue.num_shards
    for group in GROUPS:
        devices = Counter()
        for way, count in StoreFolder(half).computed(group).items():
            devices[dict(way)["device"]] += count
        assert devices == {OTHER: 1, device_kind("cpu"): shards - 1}


def test_another_device_may_extract_a_group_from_the_start(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints
):
    """Only shards of the groups that are extracted count."""
    root = copied(tiny_store, tmp_path / "s")
    for shard in range(Store(root).catalogue.num_shards):
        recorded(root, "hidden_states", shard, device=OTHER)
    extracted(root, settings(tiny_coco, tiny_checkpoints), replace=("image_embeddings",))
    assert verify_store(root).problems == []


def test_a_store_of_an_earlier_version_is_extended(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints
):
    root = copied(tiny_store, tmp_path / "s")
    for group in GROUPS:
        recorded(root, group, 0)
        assert "computed" not in json.loads(commit_path(root, group, 0).read_text())
        commit_path(root, group, 1).unlink()
    extracted(root, settings(tiny_coco, tiny_checkpoints))
    assert verify_store(root).problems == []


def test_deterministic_kernels_are_used_only_while_a_shard_is_extracted(
    tmp_path, monkeypatch, tiny_store, tiny_coco, tiny_checkpoints
):
    seen = []

    class Looking(ShardExtractor):
        def extract_ahead(self, shard, groups):
            run = self._engine.run

            def looked(*given):
                for done in run(*given):
                    seen.append(
                        (
                            torch.are_deterministic_algorithms_enabled(),
                            torch.backends.cudnn.deterministic,
                        )
                    )
                    yield done

            monkeypatch.setattr(self._engine, "run", looked)
            return super().extract_ahead(shard, groups)

    monkeypatch.setattr(runners, "ShardExtractor", Looking)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    root = tmp_path / "s"
    extracted(root, settings(tiny_coco, tiny_checkpoints, deterministic=True), reporter=Quiet())
    assert set(seen) == {(True, True)}
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    computed = Commit.load(root, "hidden_states", 0).computed
    assert computed["deterministic"] == "true"
    # The kernels of this CPU are deterministic anyway.
    for group in GROUPS:
        for shard in range(Store(root).catalogue.num_shards):
            recorded(root, group, shard, deterministic="false")
    assert_same(root, tiny_store)


def test_an_operation_without_a_deterministic_kernel_ends_with_an_error():
    with deterministic(True), pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)


def test_inspect_counts_the_shards_of_each_device(half):
    found = inspection(half)
    (way,) = found.document["groups"]["hidden_states"]["computed"][1:]
    assert (way["device"], way["shards"]) == (OTHER, 1)
    assert f"computed: 1 shards on {OTHER}, compile false" in found.text


def test_workers_load_the_commit_that_the_extraction_began_with(
    tmp_path, monkeypatch, tiny_coco, tiny_checkpoints
):
    """The branch gets a new commit after the driver has looked, and a worker must not follow."""
    commit, asked = "a" * 40, []
    cached = tmp_path / "hub/models--owner--llava/snapshots" / commit
    cached.parent.mkdir(parents=True)
    cached.symlink_to(tiny_checkpoints / "llava")

    def download(repository, *, revision, allow_patterns):
        asked.append(revision)
        return str(cached)

    monkeypatch.setattr("lens_cache.encoders.checkpoints.snapshot_download", download)
    config = settings(tiny_coco, tiny_checkpoints)
    llava = dataclasses.replace(config.encoders.llava, checkpoint="owner/llava", revision="main")
    encoders = dataclasses.replace(config.encoders, llava=llava)
    extracted(tmp_path / "s", dataclasses.replace(config, encoders=encoders))
    assert asked[0] == "main"
    assert asked[-1] == commit
    (recorded,) = (tmp_path / "s/runs").glob("*/config.yaml")
    assert f"revision: {commit}" in recorded.read_text()


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bits_do_not_depend_on_earlier_batches(tiny_checkpoints, compiled):
    """Neither on their number of images nor on their questions, in either order."""
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    few = ([noise], [[[5, 6, 7]]])
    many = ([noise] * 3, [[[5, 6, 7], [8] * 40], [], [[9] * 200]])

    def bits(*batches):
        """Return what models that are new give for each batch, one after the other."""
        torch._dynamo.reset()
        llava = LlavaEncoder.from_checkpoint(tiny_checkpoints / "llava", layers=[2, 4])
        sam = SamEncoder.from_checkpoint(tiny_checkpoints / "sam.pth")
        if compiled:
            llava.compile()
            sam.compile()
        found = []
        for squares, texts in batches:
            states = llava.encode_batch([llava.pixels(square) for square in squares], texts)
            embeddings = sam.encode_batch(squares, [(256, 256)] * len(squares))
            layers = [states.image_tokens[4], states.text_tokens[4], states.text_tokens[2]]
            found.append([value.numpy().tobytes() for value in (*layers, embeddings)])
        return found

    (alone,), (crowd,) = bits(few), bits(many)
    assert bits(few, many, few) == [alone, crowd, alone]
    assert bits(many, few, many) == [crowd, alone, crowd]
