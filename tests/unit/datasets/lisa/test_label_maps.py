"""ADE20K, COCO-Stuff and Mapillary: what LISA's loaders do, and what is right."""

import re

import numpy as np
import pytest
from PIL import Image

from lens_cache.assets import CLASSES
from lens_cache.config.data import DataConfig, LisaConfig
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.mapillary import readable_name
from lens_cache.datasets.lisa.sets import MissingSetError, parse_set
from lens_cache.datasets.questions import clean_class_name
from lens_cache.errors import DatasetError
from lens_cache.images import masks
from lens_cache.plan.build import build_plan
from tests.support.lisa_semantic import (
    MAPILLARY_LABELS,
    blocks,
    write_ade20k,
    write_cocostuff,
    write_label,
    write_mapillary,
    write_photo,
    write_semantic_world,
)

WRITERS = {"ade20k": write_ade20k, "cocostuff": write_cocostuff, "mapillary": write_mapillary}


def opened(root, text, rules="strict"):
    name = parse_set(text, KINDS)
    return KINDS[name.name].open(root, name, rules)


def names_in(file):
    return [line.split(": ")[1] for line in (CLASSES / file).read_text().splitlines()]


CLASS_NAMES = {
    "ade20k": names_in("ade20k.txt"),
    "cocostuff": names_in("cocostuff.txt"),
    "mapillary": [label["readable"].lower() for label in MAPILLARY_LABELS],
}


def as_lisa_reads(name, values):
    """[(class name, mask)] in the order of LISA's population, step by step on bytes."""
    label = values.copy()
    if name == "ade20k":
        label[label == 0] = 255
        label -= 1
        label[label == 254] = 255
    elif name == "cocostuff":
        for number, text in enumerate(CLASS_NAMES[name]):
            if "-" in text:
                label[label == number] = 255
    found = [number for number in np.unique(label).tolist() if number != 255]
    return [(CLASS_NAMES[name][number], label == number) for number in found]


def asked(record):
    return [(query.instruction, masks.decode(query.target)) for query in record.queries]


def assert_same(found, expected):
    assert [name for name, _ in found] == [name for name, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "top"), [("ade20k", 150), ("cocostuff", 181), ("mapillary", 10)])
def test_parity_is_what_lisa_reads(tmp_path, name, top):
    rng = np.random.default_rng(0)
    maps = {f"{n:03d}": rng.integers(0, top + 1, (9, 7 + n)).astype(np.uint8) for n in range(4)}
    maps["010"] = blocks(9, 12, [255, 0, top, 1, 255])
    WRITERS[name](tmp_path, maps)
    records = list(opened(tmp_path, name, "parity"))
    assert [record.path.stem for record in records] == sorted(maps)
    for record in records:
        assert_same(asked(record), as_lisa_reads(name, maps[record.path.stem]))
        assert record.rejected == ()
        assert {query.ignore for query in record.queries} <= {None}
        assert {(q.kind, q.length, q.split) for q in record.queries} == {
            ("class", "short", "train")
        }


@pytest.mark.parametrize(
    ("name", "values", "names"),
    [
        ("ade20k", [0, 150, 3, 255], ["sky", "flag"]),
        # 95 and 170 are "building-other" and "wall-brick", 144 is "playingfield".
        ("cocostuff", [0, 95, 144, 170, 255], ["person", "playing field"]),
        # 2, 3, 9 and 10 are a group, "other", the own car and void; 7 and 8 are one name.
        ("mapillary", [8, 2, 4, 3, 7, 5, 9, 10, 255], ["text lane marking", "traffic sign"]),
    ],
)
def test_strict_ignores_what_is_no_class(tmp_path, name, values, names):
    label = blocks(6, 30, values)
    WRITERS[name](tmp_path, {"a": label})
    (record,) = opened(tmp_path, name)
    assert [query.instruction for query in record.queries] == names
    void = {"ade20k": [0, 255], "cocostuff": [95, 170, 255], "mapillary": [2, 3, 9, 10, 255]}
    for query in record.queries:
        np.testing.assert_array_equal(masks.decode(query.ignore), np.isin(label, void[name]))
    targets = sum(mask.astype(int) for _, mask in asked(record))
    np.testing.assert_array_equal(targets, ~np.isin(label, void[name]))


def test_classes_that_differ_in_a_remark_are_one(tmp_path):
    label = blocks(4, 12, [7, 1, 8])
    write_mapillary(tmp_path, {"a": label})
    (record,) = opened(tmp_path, "mapillary")
    assert [query.instruction for query in record.queries] == ["person", "traffic sign"]
    np.testing.assert_array_equal(asked(record)[1][1], np.isin(label, [7, 8]))
    assert {query.ignore for query in record.queries} == {None}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Lane Marking - Arrow (Split Left or Straight)", "arrow lane marking"),
        ("Lane Marking (only) - Test", "text lane marking"),
        ("Traffic Light - General (Upright)", "traffic light"),
        ("Crosswalk - Plain", "plain crosswalk"),
        ("CCTV Camera", "cctv camera"),
        ("On Rails", "rail vehicle"),
    ],
)
def test_names_of_mapillary(text, name):
    assert readable_name(text) == name


def test_lists_of_classes():
    assert len(set(CLASS_NAMES["ade20k"])) == 150
    assert len(set(CLASS_NAMES["cocostuff"])) == 182
    assert sum("-" in name for name in CLASS_NAMES["cocostuff"]) == 28
    cleaned = {clean_class_name(n) for n in CLASS_NAMES["cocostuff"] if "-" not in n}
    assert len(cleaned) == 154  # no two become one
    assert [clean_class_name(name) for name in CLASS_NAMES["ade20k"]] == CLASS_NAMES["ade20k"]


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "RGB", "LA"])
def test_every_way_to_store_a_label_map(tmp_path, mode):
    label = blocks(7, 12, [0, 1, 150, 255])
    write_ade20k(tmp_path, {"a": label}, mode=mode)
    (record,) = opened(tmp_path, "ade20k", "parity")
    assert_same(asked(record), as_lisa_reads("ade20k", label))


def test_a_portrait_with_one_pixel(tmp_path):
    label = np.zeros((20, 5), dtype=np.uint8)
    label[19, 4] = 5
    write_ade20k(tmp_path, {"a": label})
    (record,) = opened(tmp_path, "ade20k")
    ((name, mask),) = asked(record)
    assert (name, mask.sum(), mask[19, 4]) == ("tree", 1, True)


def _break(root, how):
    labels = root / "ade20k/annotations/training"
    images = root / "ade20k/images/training"
    if how == "missing label":
        (labels / "b.png").unlink()
    elif how == "missing image":
        (root / "coco/train2017/b.jpg").unlink()
    elif how == "cut":
        (labels / "b.png").write_bytes((labels / "b.png").read_bytes()[:45])
    elif how == "no image":
        (images / "b.jpg").write_bytes(b"<html>")
    elif how == "size":
        write_photo(images / "b.jpg", 9, 12)
    elif how == "colours":
        Image.fromarray(np.arange(6 * 8 * 3).reshape(6, 8, 3).astype(np.uint8)).save(
            labels / "b.png"
        )
    elif how == "full release":
        write_label(labels / "b.png", blocks(6, 8, [3, 151, 200]))
    elif how == "instances":
        write_label(labels / "b.png", blocks(6, 8, [1, 2]).astype(np.uint16) * 256, "I;16")
    elif how == "nothing":
        write_label(labels / "b.png", blocks(6, 8, [0, 255]))


@pytest.mark.parametrize("rules", ["strict", "parity"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("missing label", "the file is missing; unpack"),
        ("cut", "cannot be decoded as a PNG; unpack"),
        ("no image", "its image ade20k/images/training/b.jpg: not an image of a known format"),
        ("size", "is 8 x 6 pixels, its image ade20k/.*b.jpg 12 x 9; take both from one release"),
        ("colours", r"a picture in colours \(RGB\), expected one class per pixel"),
        ("full release", "no class: 151, 200; the set is the challenge's release with 150 classes"),
        ("instances", "values that are no class: 256, 512; "),
        ("nothing", "every pixel is unlabelled"),
    ],
)
def test_a_bad_label_map_is_set_aside_with_its_reason(tmp_path, how, reason, rules):
    write_ade20k(tmp_path, {stem: blocks(6, 8, [1, 2]) for stem in "abc"})
    _break(tmp_path, how)
    first, bad, last = opened(tmp_path, "ade20k", rules)
    assert len(first.queries) == len(last.queries) == 2
    assert bad.queries == ()
    (rejected,) = bad.rejected
    assert rejected.what == "label map ade20k/annotations/training/b.png"
    assert re.search(reason, rejected.reason)
    assert "\n" not in rejected.reason


def test_an_image_of_cocostuff_that_is_missing(tmp_path):
    write_cocostuff(tmp_path, {stem: blocks(6, 8, [1, 2]) for stem in "ab"})
    _break(tmp_path, "missing image")
    rejected = opened(tmp_path, "cocostuff")[1].rejected
    assert rejected[0].reason.startswith("its image coco/train2017/b.jpg is missing")


def test_maps_of_stuff_alone_are_told_from_the_right_ones(tmp_path):
    write_cocostuff(tmp_path, {"a": blocks(6, 8, [92, 183])})
    reason = opened(tmp_path, "cocostuff")[0].rejected[0].reason
    assert "183" in reason
    assert "not those of stuff alone" in reason


def test_a_few_bad_ones_do_not_stop_the_plan(tmp_path):
    write_ade20k(tmp_path, {f"{n:03d}": blocks(6, 8 + n % 5, [1, 2, 0]) for n in range(60)})
    labels = tmp_path / "ade20k/annotations/training"
    for number in (3, 17, 59):
        write_label(labels / f"{number:03d}.png", blocks(6, 8 + number % 5, [151]))
    (labels / "020.png").unlink()
    config = DataConfig(kind="lisa", root=tmp_path, lisa=LisaConfig(sets=("ade20k",)))
    plan = build_plan(config)
    assert plan.queries.num_rows == 2 * 56
    bad = plan.quarantine.column("path").to_pylist()
    assert [path[-7:-4] for path in bad] == ["003", "017", "020", "059"]


def test_splits_variants_and_hidden_files(tmp_path):
    write_semantic_world(tmp_path)
    hidden = tmp_path / "cocostuff/train2017/._000000000009.png"
    hidden.write_bytes(b"resource fork")
    assert len(opened(tmp_path, "cocostuff")) == 2
    val = opened(tmp_path, "ade20k|val")
    assert (val[0].queries[0].split, len(val)) == ("val", 1)
    assert val[0].path.as_posix() == "ade20k/images/validation/ADE_val_00000001.jpg"
    old = opened(tmp_path, "mapillary|v1.2")
    assert old[0].path.as_posix() == "mapillary/training/images/key-1.jpg"
    assert old[0].dataset == "mapillary"


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("ade20k", "ade20k/images/training, ade20k/annotations/training"),
        ("cocostuff|val", "cocostuff/val2017, coco/val2017"),
        (
            "mapillary|v1.2",
            "mapillary/config_v1.2.json, mapillary/training/v1.2/labels, mapillary/training/images",
        ),
    ],
)
def test_a_set_that_is_not_there(tmp_path, text, missing):
    with pytest.raises(MissingSetError, match=rf"{missing} not found in .*; .*http.*missing=skip"):
        opened(tmp_path, text)


def test_empty_folders_are_as_good_as_none(tmp_path):
    for folder in ("images", "annotations"):
        (tmp_path / "ade20k" / folder / "training").mkdir(parents=True)
    with pytest.raises(MissingSetError, match=r"ade20k/images/training/\*.jpg not found"):
        opened(tmp_path, "ade20k")


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"labels": []}', '{"labels": [{"readable": "x", "name": "y"}]}']
)
def test_a_configuration_that_is_none(tmp_path, text):
    write_mapillary(tmp_path, {"a": blocks(4, 4, [0])})
    (tmp_path / "mapillary/config_v2.0.json").write_text(text)
    with pytest.raises(DatasetError, match=r"config_v2\.0\.json: not a configuration of Mapillary"):
        opened(tmp_path, "mapillary")


def test_a_larger_map_than_the_configuration(tmp_path):
    write_mapillary(tmp_path, {"a": blocks(4, 4, [0, len(MAPILLARY_LABELS)])})
    reason = opened(tmp_path, "mapillary")[0].rejected[0].reason
    assert "values that are no class: 11; the values must be places in mapillary/config" in reason
