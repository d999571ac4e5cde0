"""Settings, data and models that differ from the store's are refused (invariant I5)."""

import dataclasses
import shutil

import pytest

from lens_cache.errors import (
    CheckpointError,
    ConfigError,
    StoreError,
    StoreMismatchError,
)
from lens_cache.plan.build import build_plan
from lens_cache.plan.plan import Plan
from lens_cache.store.commits import commit_path
from lens_cache.store.io.lock import writer_lock
from lens_cache.store.manifest import Manifest
from lens_cache.store.verify import verify_store
from lens_cache.toy.random_checkpoints import write_tiny_checkpoints
from pipelines.extraction.extract import plan_store
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.support.data import change_data, own_data, photos
from tests.support.pictures import colours, encoded, write_coco
from tests.support.stores import (
    Quiet,
    assert_same,
    contents,
    copied,
    extracted,
    settings,
)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: settings(c.data, c.encoders.root, layers=(5,)), r"layers is \[4\] .*\[5\] here"),
        (lambda c: settings(c.data, c.encoders.root, dtype="bfloat16"), "dtype is float32 in"),
        (lambda c: settings(c.data, c.encoders.root, shard_size=3), "shard_size is 2 .* 3 here"),
        (lambda c: change_data(c, limit=3), "limit is None in the store and 3 here"),
        (
            lambda c: change_data(c, short_question="{instruction}?"),
            "short_question is What is",
        ),
    ],
)
def test_other_settings_are_refused(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints, change, named
):
    root = copied(tiny_store, tmp_path / "s")
    with pytest.raises(StoreMismatchError, match=named) as caught:
        extracted(root, change(settings(tiny_coco, tiny_checkpoints)))
    assert "\n" not in str(caught.value)
    assert "Use the" in str(caught.value)
    assert_same(root, tiny_store)


def test_other_weights_are_refused(tmp_path, tiny_store, tiny_coco):
    write_tiny_checkpoints(tmp_path / "other", seed=3)
    with pytest.raises(StoreMismatchError, match=r"group hidden_states .*weights is .*--replace"):
        extracted(copied(tiny_store, tmp_path / "s"), settings(tiny_coco, tmp_path / "other"))


def test_data_that_moved_is_accepted_and_other_data_is_not(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints
):
    root, moved = copied(tiny_store, tmp_path / "s"), tmp_path / "moved"
    shutil.copytree(tiny_coco, moved)
    commit_path(root, "hidden_states", 1).unlink()
    extracted(root, settings(moved, tiny_checkpoints))
    assert Manifest.load(root).config["data"]["root"] == str(moved)
    assert verify_store(root).problems == []
    first, second = contents(root), contents(tiny_store)
    different = {name for name in first if first[name] != second[name]}
    assert different == {"manifest.json"}
    write_coco(tmp_path / "other", num_images=4, width=40, height=30)
    with pytest.raises(StoreMismatchError, match=r"5 images and \d+ queries then, 4 and"):
        extracted(root, settings(tmp_path / "other", tiny_checkpoints))
    with pytest.raises(StoreMismatchError, match="limit is None in the store and 2 here"):
        extracted(root, change_data(settings(tiny_coco, tiny_checkpoints), limit=2))


def test_a_plan_of_other_settings_is_refused(tmp_path, tiny_coco, tiny_checkpoints):
    config = settings(tiny_coco, tiny_checkpoints)
    plan_store(tmp_path / "s", change_data(config, limit=2), Quiet())
    with pytest.raises(StoreMismatchError, match="limit is 2 in the store and None here"):
        extracted(tmp_path / "s", config)
    assert not (tmp_path / "s/manifest.json").exists()


def test_a_plan_made_anew_from_changed_data_is_refused(tmp_path, tiny_checkpoints):
    data = own_data(tmp_path / "data", photos(4))
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    extracted(root, config)
    shutil.rmtree(root / "plan")
    (tmp_path / "data/0.png").write_bytes(encoded(colours(40, 30, seed=50)))
    with pytest.raises(StoreMismatchError, match="not those that were planned"):
        extracted(root, config)


def test_planning_first_changes_nothing(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    config = settings(tiny_coco, tiny_checkpoints)
    plan_store(tmp_path / "s", config, Quiet())
    extracted(tmp_path / "s", config)
    assert_same(tmp_path / "s", tiny_store)


@pytest.mark.parametrize("layers", [(), (17,), (4, 4)])
def test_impossible_layers_are_refused(tmp_path, tiny_coco, tiny_checkpoints, layers):
    config = settings(tiny_coco, tiny_checkpoints, layers=layers)
    with pytest.raises(ConfigError, match="expected distinct layers from 1 to 16"):
        extracted(tmp_path / "s", config)


def test_missing_checkpoints_are_named(tmp_path, tiny_coco, tiny_checkpoints):
    with pytest.raises(CheckpointError, match=r"looking for LLaVA: .*tiny-checkpoints"):
        extracted(tmp_path / "s", settings(tiny_coco, tmp_path / "none"))
    shutil.copytree(tiny_checkpoints / "llava", tmp_path / "half/llava")
    with pytest.raises(CheckpointError, match="looking for SAM"):
        extracted(tmp_path / "s", settings(tiny_coco, tmp_path / "half"))


def test_another_process_keeps_this_one_out(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    root = copied(tiny_store, tmp_path / "s")
    commit_path(root, "hidden_states", 0).unlink()
    before = contents(root)
    with writer_lock(root):
        with pytest.raises(StoreError, match="another extraction holds it"):
            extracted(root, settings(tiny_coco, tiny_checkpoints))
        with pytest.raises(StoreError, match="another extraction holds it"):
            repair_store(root, (), Quiet(), runner=run_in_process)
    assert contents(root) == before


def test_moved_data_whose_skipped_inputs_have_other_reasons_are_accepted(
    tmp_path, tiny_checkpoints
):
    data = own_data(tmp_path / "data", photos(3))
    (data.root / "1.png").write_bytes(b"no image")
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    extracted(root, config)
    moved = tmp_path / "moved"
    shutil.copytree(data.root, moved)
    (moved / "1.png").write_bytes(b"")
    planned = Plan.load(root / "plan")
    assert planned.digest() != build_plan(dataclasses.replace(data, root=moved)).digest()
    extracted(root, change_data(config, root=moved))
    assert verify_store(root).problems == []
