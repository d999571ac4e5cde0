"""Instructions without a target: false of the scene when they are read word by word."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lens_cache.config.data import DataConfig
from lens_cache.images import masks
from lens_cache.plan.build import build_plan
from lens_cache.toy.absent import sample_absent
from lens_cache.toy.scene import UNSEEN_PAIRS, sample_scene
from lens_cache.toy.world import write_world
from tests.support.shapes_reading import read
from tests.unit.toy.test_instructions import phrase_of


@given(st.integers(0, 2**32 - 1))
def test_nothing_in_the_scene_is_meant(seed):
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng)
    found = sample_absent(scene, rng, 4)
    assert len({one.text for one in found}) == len(found) >= 2
    for one in found:
        topic, things = read(phrase_of(one), scene)
        assert (topic, things) == (one.topic, set())
        assert one.things == ()
        assert not any(" ".join(pair) in one.text for pair in UNSEEN_PAIRS)


def test_wrong_looks_and_wrong_places_both_occur():
    topics = Counter()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        topics.update(one.topic for one in sample_absent(sample_scene(rng), rng, 3))
    assert topics["relation"] >= 20
    assert topics["looks"] >= 20


def test_a_world_plans_them_as_queries_with_an_empty_mask(tmp_path):
    write_world(tmp_path / "world", {"absent": 12})
    plan = build_plan(DataConfig(kind="jsonl", root=tmp_path / "world"))
    assert plan.quarantine.num_rows == 0
    areas = [masks.area(plan.query(query).target()) for query in range(plan.num_queries)]
    empty = sum(area == 0 for area in areas)
    assert empty == pytest.approx(plan.num_queries / 3, rel=0.15)
    assert plan.splits() == {"absent": plan.num_queries}


def test_other_splits_do_not_change(tmp_path):
    write_world(tmp_path / "one", {"test": 2})
    write_world(tmp_path / "two", {"test": 2, "absent": 2})
    lines = (tmp_path / "one/data.jsonl").read_text()
    assert (tmp_path / "two/data.jsonl").read_text().startswith(lines)
    assert "absent" not in (tmp_path / "one/world.json").read_text()
