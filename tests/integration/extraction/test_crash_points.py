"""A repair that is killed at any file operation, and run again, ends in a store that is good."""

from functools import cache

import pytest

from lens_cache.encoders.resolve import Encoders
from lens_cache.store.verify import verify_store
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.support.crash_points import count_changes, killed_before
from tests.support.stores import Quiet, assert_same, copied, flip


@pytest.fixture
def repair(monkeypatch):
    """Repair a store; the checkpoints are hashed once for all processes."""
    resolve = cache(Encoders.resolve)
    monkeypatch.setattr(Encoders, "resolve", resolve)
    return lambda root: repair_store(root, (), Quiet(), runner=run_in_process)


def damaged(store, to):
    root = copied(store, to)
    flip(root / "frozen/sam.safetensors")
    return root


def ends_good(number, repair, tiny_store, tmp_path):
    root = damaged(tiny_store, tmp_path / f"killed-{number}")
    assert killed_before(number, lambda: repair(root), root)
    repair(root)
    assert verify_store(root).problems == [], number
    assert_same(root, tiny_store)


def test_a_repair_of_frozen_weights_killed_on_its_way_ends_good(tmp_path, tiny_store, repair):
    for number in (0, 9, 12, 15, 30):
        ends_good(number, repair, tiny_store, tmp_path)


@pytest.mark.slow
def test_a_repair_of_frozen_weights_killed_anywhere_ends_good(tmp_path, tiny_store, repair):
    root = damaged(tiny_store, tmp_path / "s")
    changes = count_changes(lambda: repair(root), root, tmp_path / "changes")
    assert_same(root, tiny_store)
    for number in range(changes):
        ends_good(number, repair, tiny_store, tmp_path)
