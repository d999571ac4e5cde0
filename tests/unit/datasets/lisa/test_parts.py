"""PACO-LVIS and PASCAL-Part: what LISA's loaders do, and what is right."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
from pycocotools.coco import COCO

from lens_cache.config.data import DataConfig, LisaConfig
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.sets import MissingSetError, parse_set
from lens_cache.errors import DatasetError
from lens_cache.images import masks
from lens_cache.plan.build import build_plan
from tests.support.lisa_semantic import (
    annotation,
    blocks,
    paco_document,
    pascal_document,
    text_rle,
    write_cocostuff,
    write_paco,
    write_pascal_part,
)
from tests.support.pictures import box_mask, box_polygon


def opened(root, text, rules="strict"):
    name = parse_set(text, KINDS)
    return KINDS[name.name].open(root, name, rules)


def as_lisa_reads(document):
    """[[(both ways to say it, mask)] of every image], by COCO's own API."""
    api = COCO()
    api.dataset = document
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    words = {}
    for category in api.loadCats(api.getCatIds()):
        parts = [part.split("_(")[0] for part in category["name"].strip().split(":")]
        if len(parts) == 1:
            words[category["id"]] = (parts[0],)
        else:
            words[category["id"]] = (parts[0] + " " + parts[1], f"the {parts[1]} of the {parts[0]}")
    return [
        [
            (words[entry["category_id"]], api.annToMask(entry).astype(bool))
            for entry in api.loadAnns(api.getAnnIds(imgIds=number))
        ]
        for number in api.getImgIds()
    ]


def asked(record):
    return [
        ((query.instruction, *query.alternatives), masks.decode(query.target))
        for query in record.queries
    ]


def assert_same(found, expected):
    assert [words for words, _ in found] == [words for words, _ in expected]
    for (_, one), (_, other) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def by_name(record):
    return {query.instruction: query for query in record.queries}


def test_parity_of_paco_is_what_lisa_reads(tmp_path):
    write_paco(tmp_path)
    found = opened(tmp_path, "paco_lvis", "parity")
    expected = as_lisa_reads(paco_document())
    assert [record.path.as_posix() for record in found] == [
        f"coco/{image['file_name']}" for image in paco_document()["images"]
    ]
    for record, entries in zip(found, expected, strict=True):
        assert_same(asked(record), entries)
        assert record.rejected == ()
        assert {query.ignore for query in record.queries} <= {None}
    assert [query.instruction for query in found[1].queries] == [
        "car",
        "car wheel",
        "trash_can",
        "trash_can inner_side",
    ]


def test_parity_of_pascal_part_is_what_lisa_reads(tmp_path):
    write_pascal_part(tmp_path)
    (record,) = opened(tmp_path, "pascal_part", "parity")
    (expected,) = as_lisa_reads(pascal_document())
    assert_same(asked(record), expected)  # of the size of the masks, not of the entry
    assert record.queries[0].instruction == "dog head"
    assert record.queries[0].alternatives == ("the head of the dog",)
    assert masks.area(record.queries[3].target) == 0  # LISA trains on an empty mask too


@pytest.mark.parametrize("degenerate", [[3.0, 3.0, 9.0, 6.0], [2.0, 1.0, 9.0, 1.0, 9.0, 6.0, 4.0]])
def test_parity_keeps_an_annotation_with_one_degenerate_polygon(tmp_path, degenerate):
    """LISA gives all polygons to pycocotools, which draws a line and cuts a last odd value."""
    document = pascal_document()
    square = [1.0, 1.0, 5.0, 1.0, 5.0, 5.0, 1.0, 5.0]
    document["images"][0].update(height=8, width=12)
    document["annotations"][0]["segmentation"] = [square, degenerate]
    write_pascal_part(tmp_path, document)
    (record,) = opened(tmp_path, "pascal_part", "parity")
    (expected,) = as_lisa_reads(document)
    assert_same(asked(record), expected)
    (strict,) = opened(tmp_path, "pascal_part")
    assert "at least 3 points" in strict.rejected[0].reason


def test_strict_asks_once_for_a_class(tmp_path):
    write_pascal_part(tmp_path)
    (record,) = opened(tmp_path, "pascal_part")
    found = by_name(record)
    assert list(found) == ["dog head", "bus license plate"]
    union = box_mask(1, 1, 4, 4) | box_mask(8, 2, 12, 8)
    np.testing.assert_array_equal(masks.decode(found["dog head"].target), union)
    assert found["dog head"].alternatives == ("the head of the dog",)
    (rejected,) = record.rejected
    assert (rejected.what, rejected.reason) == ("annotation 3", "the mask has no foreground")


def test_strict_ignores_objects_that_nobody_divided(tmp_path):
    write_paco(tmp_path)
    first, second, empty = opened(tmp_path, "paco_lvis")
    found = by_name(first)
    assert list(found) == ["mug", "mug handle"]
    mug, handle = found["mug"], found["mug handle"]
    assert mug.ignore is None
    np.testing.assert_array_equal(masks.decode(handle.ignore), box_mask(9, 1, 12, 8))
    assert masks.area(handle.target) == 1 + 4
    assert (mug.topic, handle.topic, handle.kind) == ("object", "part", "class")
    # Of cars the file says that not all are annotated.
    assert list(by_name(second)) == ["car wheel", "trash can", "trash can inner side"]
    assert (empty.queries, empty.rejected) == ((), ())


def test_an_undivided_object_never_ignores_its_target(tmp_path):
    document = paco_document()
    document["annotations"] = [
        annotation(1, 7, 10, text_rle(box_mask(0, 0, 6, 8)), obj_ann_id=1),
        annotation(2, 7, 106, text_rle(box_mask(4, 0, 8, 8)), obj_ann_id=99),
    ]
    write_paco(tmp_path, document)
    handle = by_name(opened(tmp_path, "paco_lvis")[0])["mug handle"]
    np.testing.assert_array_equal(masks.decode(handle.ignore), box_mask(0, 0, 4, 8))


def test_crowds_are_ignored_for_their_class_alone(tmp_path):
    document = pascal_document()
    document["annotations"][2]["iscrowd"] = 1
    write_pascal_part(tmp_path, document)
    (record,) = opened(tmp_path, "pascal_part")
    found = by_name(record)
    np.testing.assert_array_equal(masks.decode(found["dog head"].target), box_mask(1, 1, 4, 4))
    np.testing.assert_array_equal(masks.decode(found["dog head"].ignore), box_mask(8, 2, 12, 8))
    assert found["bus license plate"].ignore is None


@pytest.mark.parametrize("rules", ["strict", "parity"])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"category_id": 999}, "unknown category id 999"),
        ({"category_id": "dog"}, "unknown category id 'dog'"),
        ({"segmentation": []}, "expected a list of polygons"),
        ({"segmentation": None}, "expected a list of polygons"),
        ({"segmentation": [[0, 0, 1]]}, r"at least \d points"),
        ({"segmentation": {"size": [8, 12], "counts": "!!"}}, "not a compressed COCO run-length"),
        ({"segmentation": {"size": [8, 12], "counts": [95]}}, "add up to 95 pixels"),
        ({"segmentation": text_rle(np.ones((8, 10)))}, "mask is 10 x 8 pixels, the image 12 x 8"),
    ],
)
def test_a_bad_annotation_leaves_the_others(tmp_path, change, reason, rules):
    document = pascal_document()
    document["annotations"] = document["annotations"][:2]
    document["annotations"][0].update(change)
    write_pascal_part(tmp_path, document)
    (record,) = opened(tmp_path, "pascal_part", rules)
    assert list(by_name(record)) == ["bus license plate"]
    (rejected,) = record.rejected
    assert rejected.what == "annotation 0"
    assert re.search(reason, rejected.reason)


def test_entries_that_belong_nowhere_are_the_sets_own(tmp_path):
    document = pascal_document()
    document["images"] += [
        {"id": 5, "file_name": "../../secret.jpg"},
        {"id": 2008000002, "file_name": "again.jpg"},
        "no entry",
    ]
    document["annotations"] += [
        annotation(8, 77, 49, []),
        annotation(1, 2008000002, 49, []),
        {"image_id": 2008000002},
    ]
    (tmp_path / "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages").mkdir(parents=True)
    (tmp_path / "vlpart/pascal_part/train.json").write_text(json.dumps(document))
    found = opened(tmp_path, "pascal_part")
    assert len(found) == 1
    assert [(entry.what, entry.reason.split(",")[0]) for entry in found.rejected] == [
        ("image 2008000002", "another image has its id"),
        ("image at position 3", "expected an object"),
        ("image 5", "the path '../../secret.jpg' leads outside the root"),
        ("annotation 1", "another annotation has its id"),
        ("annotation at position 6", "its id must be an integer"),
        ("annotation 8", "no image has its image_id 77"),
    ]


def test_an_image_that_is_missing_is_skipped_whole(tmp_path):
    write_paco(tmp_path)
    (tmp_path / "coco/train2017/000000000007.jpg").unlink()
    record = opened(tmp_path, "paco_lvis")[0]
    assert record.queries == ()
    (rejected,) = record.rejected
    assert rejected.what == "4 annotations"
    assert rejected.reason.startswith("its image coco/train2017/000000000007.jpg is missing")


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("paco_lvis|val", "vlpart/paco/annotations/paco_lvis_v1_val.json"),
        ("pascal_part", "vlpart/pascal_part/train.json"),
    ],
)
def test_a_set_that_is_not_there(tmp_path, text, missing):
    with pytest.raises(MissingSetError, match=rf"{missing}, .* not found in .*; unpack .*http"):
        opened(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a:b:c", "expected a category like 'dog:head'"), ("dog", "expected a category like")],
)
def test_a_category_that_is_no_part(tmp_path, name, reason):
    document = pascal_document()
    document["categories"] = [{"id": 1, "name": name}]
    write_pascal_part(tmp_path, document)
    with pytest.raises(DatasetError, match=rf"reading .*train.json: {reason}.*got '{name}'; "):
        opened(tmp_path, "pascal_part")


def test_one_picture_of_two_sets_is_one_image_of_the_plan(tmp_path):
    write_paco(tmp_path)
    write_cocostuff(tmp_path, {"000000000007": blocks(8, 12, [0, 15])})
    sets = LisaConfig(sets=("cocostuff", "paco_lvis"))
    plan = build_plan(DataConfig(kind="lisa", root=tmp_path, lisa=sets))
    assert plan.images.column("datasets").to_pylist() == [["cocostuff", "paco_lvis"], ["paco_lvis"]]
    assert plan.queries.num_rows == 2 + 2 + 3


def test_overlapping_polygons_are_one_mask(tmp_path):
    document = pascal_document()
    polygons = [box_polygon(0, 0, 5, 5), box_polygon(3, 3, 8, 7)]
    document["annotations"] = [annotation(0, 2008000002, 49, polygons)]
    write_pascal_part(tmp_path, document)  # whose entry says 512 x 512
    for rules in ("strict", "parity"):
        (record,) = opened(tmp_path, "pascal_part", rules)
        union = box_mask(0, 0, 5, 5) | box_mask(3, 3, 8, 7)
        np.testing.assert_array_equal(masks.decode(record.queries[0].target), union)
