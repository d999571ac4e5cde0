"""A world of shapes on disk: whole, repeatable, and read by the jsonl adapter as it was meant."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lens_cache.config.data import DataConfig
from lens_cache.errors import ConfigError, DatasetError
from lens_cache.images import masks
from lens_cache.plan.build import build_plan
from lens_cache.toy.drawing import sample_painted_scene
from lens_cache.toy.world import write_world
from tests.support.shapes_reading import TOPICS

COUNTS = {"train": 6, "val": 2, "test": 2, "hard": 3}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world; do not write into it."""
    folder = tmp_path_factory.mktemp("worlds") / "world"
    write_world(folder, COUNTS)
    return folder


def lines(folder, name):
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def image(folder, name):
    return np.asarray(Image.open(folder / name))


def test_the_plan_takes_all_of_it(world):
    plan = build_plan(DataConfig(kind="jsonl", root=world))
    written = lines(world, "data")
    assert plan.quarantine.num_rows == 0
    assert plan.num_images == sum(COUNTS.values())
    assert plan.num_queries == len(written)
    assert plan.splits() == Counter(line["split"] for line in written)
    places = {str(plan.image(i).path): i for i in range(plan.num_images)}
    for name, index in places.items():
        mine = [line for line in written if line["image"] == name]
        for query, line in zip(plan.queries_of(index), mine, strict=True):
            assert query.target() == line["mask"]["rle"]
            assert masks.decode(query.target()).shape == image(world, name).shape[:2] == (128, 128)
            for key in ("instruction", "kind", "length", "topic", "split"):
                assert getattr(query, key) == line[key]
    assert {line["kind"] for line in written} == {"class", "referring", "plural", "reasoning"}
    assert {line["topic"] for line in written} == set(TOPICS)


def test_a_mask_is_the_union_of_the_things_that_are_meant(world):
    scenes = {scene["image"]: scene["things"] for scene in lines(world, "scenes")}
    assert len(scenes) == sum(COUNTS.values())
    checked = Counter()
    for line in lines(world, "data"):
        things = scenes[line["image"]]
        parts = [masks.decode(thing["rle"]) for thing in things]
        mask = masks.decode(line["mask"]["rle"])
        assert np.sum(parts, axis=0).max() == 1
        meant = [bool((mask & part).any()) for part in parts]
        union = np.any([part for part, yes in zip(parts, meant, strict=True) if yes], axis=0)
        np.testing.assert_array_equal(mask, union)
        if line["length"] == "short" and line["topic"] in ("shape", "colour", "looks"):
            said = {word.removesuffix("s") for word in line["instruction"].split()}
            said -= {"the", "all", "thing"}
            fits = [said <= {t["size"], t["colour"], t["shape"]} for t in things]
            assert meant == fits, line
            checked[line["topic"]] += 1
    assert min(checked.values()) > 3


def test_equal_arguments_give_equal_bytes(world, tmp_path):
    write_world(tmp_path / "again", dict(reversed(COUNTS.items())), seed=0)
    assert contents(tmp_path / "again") == contents(world)


def test_an_image_depends_on_seed_split_and_index_alone(world, tmp_path):
    write_world(tmp_path / "other", {"val": 3, "train": 2})
    before, after = contents(world), contents(tmp_path / "other")
    for name in ("images/train/000001.png", "images/val/000001.png"):
        assert before[name] == after[name]
        for kind in ("data", "scenes"):
            one, other = (
                [line for line in lines(folder, kind) if line["image"] == name]
                for folder in (world, tmp_path / "other")
            )
            assert one == other
    assert not (tmp_path / "other/images/hard").exists()


def test_no_image_is_written_twice(world, tmp_path):
    write_world(tmp_path / "other", COUNTS, seed=1)
    pictures = [
        content
        for folder in (world, tmp_path / "other")
        for name, content in contents(folder).items()
        if name.endswith(".png")
    ]
    assert len(pictures) == len(set(pictures)) == 2 * sum(COUNTS.values())


def test_no_seed_repeats_a_picture_that_the_frozen_models_know(tmp_path):
    """Theirs come from [101 to 103, number]; short seeds are filled up with zeros."""
    write_world(tmp_path / "world", {"train": 1}, seed=101)
    mine = image(tmp_path / "world", "images/train/000000.png")
    for number in (0, 11, 1011):
        known = sample_painted_scene(np.random.default_rng([101, number]))
        assert not np.array_equal(mine, known.image)


def test_the_same_world_is_left_alone(world, monkeypatch):
    before = contents(world)
    steps = []
    write_world(world, COUNTS, progress=lambda *step: steps.append(step))
    assert steps == []
    assert contents(world) == before


@pytest.mark.parametrize(
    ("counts", "seed", "message"),
    [
        ({**COUNTS, "train": 7}, 0, "world: train is 6 there and 7 here; give a new folder"),
        ({"train": 6}, 3, "seed is 0 there and 3 here; val is 2 there and 0 here"),
    ],
)
def test_another_world_is_refused_by_what_differs(world, counts, seed, message):
    before = contents(world)
    with pytest.raises(DatasetError, match=message):
        write_world(world, counts, seed=seed)
    assert contents(world) == before


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "note").write_text("mine")
    for folder in (tmp_path, tmp_path / "note"):
        with pytest.raises(DatasetError, match="contains something else; give a new folder"):
            write_world(folder, {"train": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["note"]


def test_an_interrupted_world_is_not_there(tmp_path):
    def stop(split, done, total):
        if (split, done, total) == ("val", 1, 2):
            raise KeyboardInterrupt

    (tmp_path / "world").mkdir()
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "world", COUNTS, progress=stop)
    assert [path.name for path in tmp_path.rglob("*")] == ["world"]
    write_world(tmp_path / "world", {"train": 1})
    assert len(lines(tmp_path / "world", "scenes")) == 1


@pytest.mark.parametrize(
    ("counts", "seed", "message"),
    [
        ({"dev": 3}, 0, "expected the splits train, val, test, hard, absent, found 'dev'"),
        ({"train": -1}, 0, "numbers of images of at least 0"),
        ({"train": 1}, -1, "expected a seed"),
        ({"train": 0}, 0, "at least one image"),
        ({}, 0, "at least one image"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, counts, seed, message):
    with pytest.raises(ConfigError, match=message):
        write_world(tmp_path / "world", counts, seed=seed)
    assert list(tmp_path.iterdir()) == []
