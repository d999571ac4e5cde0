"""What is killed at any change of a file, and run again, ends in a store that is good."""

from functools import cache

import pytest

from lens_cache.encoders.resolve import Encoders
from lens_cache.store.convert import convert
from lens_cache.store.verify import verify_store
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.support.crash_points import count_changes, killed_before
from tests.support.stores import Quiet, assert_same, copied, flip

DAMAGED = [
    "frozen/sam.safetensors",
    "plan/queries.parquet",
    "hidden_states/questions.parquet",
    "hidden_states/layer_4/prefix/c/0/0",
    "image_embeddings/c/1/0/0/0",
    "manifest.json",
]


@pytest.fixture
def repair(monkeypatch):
    """Repair a store; the checkpoints are hashed once for all processes."""
    resolve = cache(Encoders.resolve)
    monkeypatch.setattr(Encoders, "resolve", resolve)
    return lambda root: repair_store(root, (), Quiet(), runner=run_in_process)


def damaged(store, to, name):
    root = copied(store, to)
    flip(root / name)
    return root


def ends_good(number, repair, tiny_store, folder, name):
    """Kill a repair before a change; returns False if it has fewer changes."""
    root = damaged(tiny_store, folder / f"killed-{number}", name)
    killed = killed_before(number, lambda: repair(root), root)
    repair(root)
    assert verify_store(root).problems == [], number
    assert_same(root, tiny_store)
    return killed


@pytest.mark.parametrize("name", DAMAGED)
def test_a_repair_killed_on_its_way_ends_good(tmp_path, tiny_store, repair, name):
    assert ends_good(3, repair, tiny_store, tmp_path, name)
    if name == DAMAGED[0]:
        for number in (0, 6, 9, 12, 15):
            assert ends_good(number, repair, tiny_store, tmp_path, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGED)
def test_a_repair_killed_anywhere_ends_good(tmp_path, tiny_store, repair, name):
    root = damaged(tiny_store, tmp_path / "s", name)
    changes = count_changes(lambda: repair(root), root, tmp_path / "changes")
    assert_same(root, tiny_store)
    for number in range(changes):
        assert ends_good(number, repair, tiny_store, tmp_path, name)


def converted(source, to):
    return lambda: convert(source, to, wanted="webdataset")


def conversion_ends_good(number, tiny_store, whole, dest):
    killed = killed_before(number, converted(tiny_store, dest), dest)
    converted(tiny_store, dest)()
    assert verify_store(dest).problems == [], number
    assert_same(dest, whole)
    return killed


@pytest.fixture
def whole(tmp_path, tiny_store):
    converted(tiny_store, tmp_path / "whole")()
    return tmp_path / "whole"


def test_a_conversion_killed_on_its_way_ends_good(tmp_path, tiny_store, whole):
    for number in (0, 7, 20):
        assert conversion_ends_good(number, tiny_store, whole, tmp_path / f"killed-{number}")


@pytest.mark.slow
def test_a_conversion_killed_anywhere_ends_good(tmp_path, tiny_store, whole):
    dest = tmp_path / "s"
    changes = count_changes(converted(tiny_store, dest), dest, tmp_path / "changes")
    assert_same(dest, whole)
    for number in range(changes):
        assert conversion_ends_good(number, tiny_store, whole, tmp_path / f"killed-{number}")
