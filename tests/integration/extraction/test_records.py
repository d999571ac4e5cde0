"""A record vouches only for the shard, the models and the plan that it was written for."""

import dataclasses
import shutil

import pytest

from lens_cache.errors import CorruptShardError, StoreError, StoreMismatchError
from lens_cache.extraction.extractor import ShardExtractor
from lens_cache.store.commits import Commit, commit_path
from lens_cache.store.convert import convert
from lens_cache.store.manifest import Manifest
from lens_cache.store.quarantine import Quarantine
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from lens_cache.toy.random_checkpoints import write_tiny_checkpoints
from pipelines.extraction.inspection import inspection
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.support.stores import Quiet, assert_same, copied, extracted, settings


@pytest.fixture
def root(tmp_path, tiny_store):
    return copied(tiny_store, tmp_path / "s")


def record(root, group, shard):
    return commit_path(root, group, shard)


def copy_record(root, source, dest):
    shutil.copyfile(record(root, *source), record(root, *dest))


def mended(root, good):
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert verify_store(root).problems == []
    assert_same(root, good)


@pytest.mark.parametrize(
    "source", [("hidden_states", 2), ("image_embeddings", 1)], ids=["shard", "group"]
)
def test_the_record_of_another_shard_or_group_is_noticed(root, tiny_store, source):
    copy_record(root, source, ("hidden_states", 1))
    shutil.rmtree(root / "hidden_states/layer_4/image_tokens/c/1")
    (problem,) = verify_store(root).problems
    assert (problem.group, problem.shard) == ("hidden_states", 1)
    assert f"is the record of {source[0]} shard {source[1]}" in problem.what
    mended(root, tiny_store)


def test_a_record_that_leaves_out_a_file_is_noticed(root, tiny_store):
    found = Commit.load(root, "hidden_states", 1)
    kept = [entry for entry in found.objects if "image_tokens" not in entry.path]
    dataclasses.replace(found, objects=kept).save(root)
    (problem,) = verify_store(root).problems
    assert "names other files than hidden_states/layer_4/image_tokens/c/1/0/0" in problem.what
    mended(root, tiny_store)


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory, tiny_coco):
    """A store of the same images by other models."""
    folder = tmp_path_factory.mktemp("other")
    write_tiny_checkpoints(folder / "checkpoints", seed=3)
    extracted(folder / "s", settings(tiny_coco, folder / "checkpoints"))
    return folder / "s"


def test_a_shard_of_another_model_is_noticed(tmp_path, root, tiny_store, other_weights):
    for name in ("image_embeddings/c/1/0/0/0", "commits/image_embeddings/000001.json"):
        shutil.copyfile(other_weights / name, root / name)
    (problem,) = verify_store(root).problems
    assert (problem.group, problem.shard) == ("image_embeddings", 1)
    assert "is of other models, settings or data" in problem.what
    with pytest.raises(CorruptShardError, match="of other models"):
        convert(root, tmp_path / "dest", wanted="webdataset")
    mended(root, tiny_store)


def test_records_of_older_versions_are_read(root, tiny_store):
    for group in ("hidden_states", "image_embeddings"):
        for shard in range(3):
            dataclasses.replace(Commit.load(root, group, shard), content="").save(root)
    assert b"content" not in record(root, "hidden_states", 0).read_bytes()
    assert verify_store(root).problems == []
    assert len(list(Store(root))) == 5


def test_files_that_are_no_records_crash_nothing(root, tiny_store, tiny_coco, tiny_checkpoints):
    for folder in ("commits/hidden_states", "quarantine/hidden_states"):
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / "._000001.json").write_bytes(b"\0\5Mac OS X")
    assert verify_store(root).problems == []
    assert "3 of 3 shards" in inspection(root).text
    assert extracted(root, settings(tiny_coco, tiny_checkpoints)).reports == []
    assert len(Store(root)) == 5


def test_the_record_of_a_shard_that_the_plan_has_not_is_noticed(root, tiny_store):
    shutil.copyfile(record(root, "hidden_states", 1), record(root, "hidden_states", 77))
    (problem,) = verify_store(root).problems
    assert (problem.shard, problem.what) == (77, "the plan has no such shard")
    mended(root, tiny_store)


def test_a_quarantine_record_of_a_stored_image_is_noticed(root, tiny_store):
    image = Store(root).plan.image(3)
    Quarantine(
        group="hidden_states", image_id=image.image_id, path="x", stage="read", reason="none"
    ).save(root)
    (problem,) = verify_store(root).problems
    assert problem.what == f"image {image.image_id} is stored, but has a quarantine record"
    mended(root, tiny_store)


def test_a_digest_depends_on_plan_and_models(tiny_store, other_weights):
    here, there = Manifest.load(tiny_store), Manifest.load(other_weights)
    for group in ("hidden_states", "image_embeddings"):
        assert here.plan == there.plan
        assert here.content_digest(group) != there.content_digest(group)
        plan = dataclasses.replace(here.plan, digest="0")
        assert here.content_digest(group) != dataclasses.replace(here, plan=plan).content_digest(
            group
        )


def test_a_worker_refuses_weights_that_were_replaced(tmp_path, tiny_coco, tiny_checkpoints):
    """The checkpoint is replaced after the first worker has committed a shard; then it dies."""
    mine = tmp_path / "checkpoints"
    shutil.copytree(tiny_checkpoints, mine)
    write_tiny_checkpoints(tmp_path / "new", seed=3)

    def runner(job, ledger):
        task = ledger.next()
        ShardExtractor(job.root, job.config, job.groups, "cpu").extract(task.shard, task.groups)
        shutil.copyfile(tmp_path / "new/sam.pth", mine / "sam.pth")
        ShardExtractor(job.root, job.config, ("hidden_states",), "cpu")
        ShardExtractor(job.root, job.config, job.groups, "cpu")

    with pytest.raises(StoreMismatchError, match=r"image_embeddings: the weights in .*sam.pth"):
        extracted(tmp_path / "s", settings(tiny_coco, mine), runner=runner)
    shutil.copyfile(tiny_checkpoints / "sam.pth", mine / "sam.pth")
    extracted(tmp_path / "s", settings(tiny_coco, mine))
    assert verify_store(tmp_path / "s").problems == []


def test_replacing_stops_when_an_old_commit_stays(
    root, tiny_coco, tmp_path, tiny_checkpoints, monkeypatch
):
    """Files of another owner cannot be removed; their shards would keep the old features."""
    monkeypatch.setattr("lens_cache.store.folder.remove_folder", lambda path: None)
    with pytest.raises(StoreError, match=r"hidden_states/000000.json cannot be removed; change"):
        extracted(root, settings(tiny_coco, tiny_checkpoints), replace=("hidden_states",))
    assert not Manifest.load(root).complete
