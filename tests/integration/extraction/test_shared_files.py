"""The files that belong to no shard are compared with what was written, never sealed as found."""

import dataclasses
import shutil

import pytest

from lens_cache.errors import CorruptShardError, StoreError
from lens_cache.store.commits import commit_path
from lens_cache.store.convert import convert
from lens_cache.store.folder import StoreFolder
from lens_cache.store.manifest import Manifest
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from pipelines.extraction.extract import plan_store
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.support.stores import Quiet, assert_same, copied, extracted, flip, settings

SHARED_FILES = [
    "frozen/sam.safetensors",
    "frozen/config.json",
    "plan/queries.parquet",
    "plan/settings.json",
    "hidden_states/questions.parquet",
]


@pytest.fixture
def config(tiny_coco, tiny_checkpoints):
    return settings(tiny_coco, tiny_checkpoints)


@pytest.fixture
def root(tmp_path, tiny_store):
    return copied(tiny_store, tmp_path / "s")


def repair(root):
    repair_store(root, (), Quiet(), runner=run_in_process)


def test_extracting_again_does_not_bless_damage(root, tiny_store, config):
    flip(root / "frozen/sam.safetensors")
    for _ in range(2):
        with pytest.raises(CorruptShardError, match=r"frozen/sam.safetensors .* --repair") as error:
            extracted(root, config, retry_quarantined=True)
        assert "\n" not in str(error.value)
        assert not Manifest.load(root).complete
        assert [p.what for p in verify_store(root).problems] == [
            "frozen/sam.safetensors does not match its checksum"
        ]
    repair(root)
    assert_same(root, tiny_store)


def test_damage_during_an_extraction_is_not_sealed(root, tiny_store, config):
    commit_path(root, "hidden_states", 1).unlink()

    def runner(job, ledger):
        run_in_process(job, ledger)
        flip(root / "frozen/decoder_layers_4.safetensors")

    with pytest.raises(CorruptShardError, match=r"checking the store .*decoder_layers_4"):
        extracted(root, config, runner=runner)
    repair(root)
    assert_same(root, tiny_store)


@pytest.mark.parametrize("lost", ["frozen/sam.safetensors", "plan/images.parquet"])
def test_an_extraction_writes_a_shared_file_that_is_gone(root, tiny_store, config, lost):
    (root / lost).unlink()
    extracted(root, config)
    assert_same(root, tiny_store)


@pytest.mark.parametrize("name", [*SHARED_FILES, "hidden_states/layer_4/prefix/c/0/0"])
def test_a_conversion_refuses_a_damaged_source(tmp_path, root, name):
    flip(root / name)
    with pytest.raises((CorruptShardError, StoreError), match=r"checksum") as error:
        convert(root, tmp_path / "dest", wanted="webdataset")
    assert "\n" not in str(error.value)
    with pytest.raises(StoreError):
        Store(tmp_path / "dest")


def test_a_conversion_replaces_a_shared_file_that_it_finds_damaged(tmp_path, tiny_store):
    convert(tiny_store, tmp_path / "good", wanted="webdataset")
    dest = copied(tmp_path / "good", tmp_path / "dest")
    manifest = Manifest.load(dest)
    dataclasses.replace(manifest, complete=False).save(dest)
    (dest / "frozen/sam.safetensors").write_bytes(b"half")
    convert(tiny_store, dest, wanted="webdataset")
    assert_same(dest, tmp_path / "good")


def test_stores_that_no_version_recorded_yet_are_finished(root, tiny_store, config):
    """Older versions recorded the checksums of shared files when a store became complete."""
    commit_path(root, "shared", 0).unlink()
    commit_path(root, "hidden_states", 2).unlink()
    StoreFolder(root).reopen(Manifest.load(root))
    before = (root / "plan/queries.parquet").stat().st_mtime_ns
    extracted(root, config)
    assert (root / "plan/queries.parquet").stat().st_mtime_ns == before
    assert_same(root, tiny_store)


def test_a_plan_without_a_record_is_made_again(tmp_path, config):
    """Without a record and a manifest, nothing tells whether its bytes are right."""
    plan_store(tmp_path / "s", config, Quiet())
    good = copied(tmp_path / "s", tmp_path / "good")
    shutil.rmtree(tmp_path / "s/commits")
    flip(tmp_path / "s/plan/queries.parquet")
    plan_store(tmp_path / "s", config, Quiet())
    assert_same(tmp_path / "s", good)
