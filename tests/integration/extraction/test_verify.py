"""Verification and repair (invariant I2), and dry runs."""

import os
import shutil

import pytest

from lens_cache.errors import (
    CorruptShardError,
    StoreError,
    StoreMismatchError,
)
from lens_cache.extraction.recompute import recompute
from lens_cache.store.io.files import read_json, write_json
from lens_cache.store.manifest import Manifest
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from pipelines.extraction.dry_run import dry_run
from pipelines.extraction.extract import plan_store
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.support.data import change_data, own_data, photos, truncated
from tests.support.stores import (
    Quiet,
    assert_same,
    copied,
    extracted,
    flip,
    settings,
    stamps,
    vouch,
)


def spoiled_files(root):
    """One file of every kind, by kind."""
    kinds = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and name.parts[0] not in ("runs", ".lock"):
            kinds.setdefault(
                (name.parts[0], path.suffix, name.parts[-2] if len(name.parts) > 1 else ""), path
            )
    return list(kinds.values())


@pytest.fixture(scope="module")
def store_with_quarantine(tmp_path_factory, tiny_checkpoints):
    """A store of five images, the fourth of which is broken, and its settings."""
    folder = tmp_path_factory.mktemp("quarantine")
    data = own_data(
        folder / "data", photos(3) | {"3.png": truncated()} | {"4.png": photos(5)["4.png"]}
    )
    config = settings(data, tiny_checkpoints)
    extracted(folder / "s", config)
    return folder / "s", config


def test_a_flipped_bit_anywhere_is_noticed_and_mended(tmp_path, store_with_quarantine):
    good, _ = store_with_quarantine
    kinds = spoiled_files(good)
    assert len(kinds) >= 12
    for number, path in enumerate(kinds):
        name = path.relative_to(good)
        root = copied(good, tmp_path / str(number))
        size = path.stat().st_size
        flip(root / name, at=(7 * size) // 11)
        if name.parts == ("manifest.json",):
            with pytest.raises(CorruptShardError, match="does not match its checksum"):
                verify_store(root)
            continue
        found = verify_store(root)
        assert found.problems, name
        assert all("\n" not in problem.what for problem in found.problems)
        repair_store(root, (), Quiet(), runner=run_in_process)
        assert verify_store(root).problems == [], name
        assert_same(root, good)


def test_verify_names_shard_array_and_image_and_repair_touches_nothing_else(tmp_path, tiny_store):
    root, plan = copied(tiny_store, tmp_path / "s"), Store(tiny_store).plan
    name = "hidden_states/layer_4/image_tokens/c/1/0/0"
    third = Manifest.load(root).arrays["hidden_states"]["layer_4/image_tokens"].chunk_bytes
    flip(root / name, at=third + 5)
    (problem,) = verify_store(root).problems
    image = plan.image(3)
    assert (problem.group, problem.shard) == ("hidden_states", 1)
    assert problem.what == (
        f"{name} does not match its checksum; damaged: {image.image_id} ({image.path})"
    )
    before = stamps(root)
    repair_store(root, (), Quiet(), runner=run_in_process)
    after = stamps(root)
    changed = {n for n in before if before[n] != after[n] and "/c/" in n}
    mine = {n for n in before if n.startswith("hidden_states/") and "/c/1/" in n}
    assert changed == mine
    changed = {n for n in before if before[n] != after[n] and n.startswith("commits/")}
    assert changed <= {"commits/hidden_states/000001.json", "commits/shared/000000.json"}
    assert_same(root, tiny_store)


@pytest.mark.parametrize("damage", ["truncate", "remove", "empty", "swap"])
def test_lost_objects_are_mended(tmp_path, tiny_store, damage):
    root = copied(tiny_store, tmp_path / "s")
    path, other = (root / f"image_embeddings/c/{n}/0/0/0" for n in (0, 1))
    if damage == "truncate":
        os.truncate(path, path.stat().st_size - 5)
    elif damage == "remove":
        path.unlink()
    elif damage == "empty":
        os.truncate(path, 0)
    else:
        shutil.copyfile(other, path)
    (problem,) = verify_store(root).problems
    assert (problem.group, problem.shard) == ("image_embeddings", 0)
    if damage != "swap":
        with pytest.raises(CorruptShardError):
            Store(root).read(0, [0], 4)
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert_same(root, tiny_store)


def test_repairing_a_sound_store_changes_nothing(tmp_path, tiny_store):
    root = copied(tiny_store, tmp_path / "s")
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert_same(root, tiny_store)


def test_another_plan_under_a_store_is_noticed(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    root = copied(tiny_store, tmp_path / "s")
    config = change_data(settings(tiny_coco, tiny_checkpoints), limit=4)
    plan_store(tmp_path / "other", config, Quiet())
    shutil.rmtree(root / "plan")
    shutil.copytree(tmp_path / "other/plan", root / "plan")
    vouch(root)
    whats = [problem.what for problem in verify_store(root).problems]
    assert "the plan is not the one the manifest was written for" in whats
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert_same(root, tiny_store)


def test_an_unknown_format_is_refused(tmp_path, tiny_store):
    root = copied(tiny_store, tmp_path / "s")
    document = read_json(root / "manifest.json", purpose="")
    for change in ({"format_version": 2}, {"format": "other"}):
        write_json(root, root / "manifest.json", {**document, **change})
        with pytest.raises(StoreError, match="expected lens-cache store version 1, found"):
            Store(root)
    write_json(root, root / "manifest.json", {**document, "surprise": 1})
    with pytest.raises(StoreError, match=r"manifest.json is not a manifest \(.*surprise"):
        Store(root)


def test_what_is_no_store_is_named(tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        Store(tmp_path / "none")
    with pytest.raises(StoreError, match=r"there is no manifest.json"):
        Store(tmp_path)


def test_a_dry_run_counts_and_writes_nothing(tmp_path, tiny_coco, tiny_checkpoints, tiny_store):
    found = dry_run(tmp_path / "s/deep", settings(tiny_coco, tiny_checkpoints), Quiet())
    assert list(tmp_path.iterdir()) == []
    assert found.shards == {"hidden_states": 3, "image_embeddings": 3}
    assert (found.plan.num_images, found.files) == (5, 5)
    arrays = Manifest.load(tiny_store).arrays
    image = arrays["image_embeddings"]["image_embeddings"].chunk_bytes
    assert found.estimate.feature_bytes["image_embeddings"] == 5 * image
    stored = sum(
        path.stat().st_size
        for path in tiny_store.rglob("*")
        if "/c/" in path.as_posix() and path.is_file()
    )
    assert found.missing_bytes == pytest.approx(stored, rel=0.2)
    assert found.estimate.naive_bytes > sum(found.estimate.feature_bytes.values())
    assert dry_run(tiny_store, settings(tiny_coco, tiny_checkpoints), Quiet()).missing_bytes == 0
    with pytest.raises(StoreMismatchError, match="layers is"):
        dry_run(tiny_store, settings(tiny_coco, tiny_checkpoints, layers=(3,)), Quiet())


@pytest.mark.slow
def test_compiled_models_say_the_same(tmp_path, tiny_coco, tiny_checkpoints):
    config = settings(tiny_coco, tiny_checkpoints, compile=True, images_per_batch=2)
    extracted(tmp_path / "s", config)
    found = recompute(Store(tmp_path / "s"), config, 100)
    assert found
    assert [record for record in found if not record.good] == []
