import json
from pathlib import PurePosixPath

import numpy as np
import pytest
from pycocotools import mask as reference

from lens_cache.config.data import DataConfig
from lens_cache.datasets.registry import open_dataset
from lens_cache.errors import DatasetError
from lens_cache.images import masks
from tests.support.pictures import box_mask, box_polygon, colours, rotated, runs, write_image

BOX = {"polygons": [box_polygon(1, 1, 4, 4)]}
LINE = {"image": "a.png", "instruction": "the box", "mask": BOX}


@pytest.fixture
def root(tmp_path):
    write_image(tmp_path / "a.png")
    write_image(tmp_path / "b.png", seed=1)
    return tmp_path


def opened(root, lines, **settings):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (root / "data.jsonl").write_text("\n".join(texts), encoding="utf-8")
    return open_dataset(DataConfig(kind="jsonl", root=root, **settings))


def test_three_forms_of_a_mask_agree(root):
    box = box_mask(1, 1, 4, 4)
    masks.write_png(root / "m.png", box)
    forms = [
        "m.png",
        BOX,
        {"rle": {"size": [8, 12], "counts": runs(box)}},
        {"rle": {"size": [8, 12], "counts": masks.encode(box)["counts"]}},
    ]
    (record,) = opened(root, [{**LINE, "mask": form, "ignore": form} for form in forms])
    assert record.rejected == ()
    assert len(record.queries) == 4
    for query in record.queries:
        np.testing.assert_array_equal(masks.decode(query.target), box)
        assert query.ignore == query.target


def test_null_is_an_empty_mask_of_the_size_of_the_image(root):
    (record,) = opened(root, [{**LINE, "mask": None}])
    (query,) = record.queries
    assert query.target["size"] == [8, 12]
    assert not masks.decode(query.target).any()
    (record,) = opened(root, [{**LINE, "image": "missing.png", "mask": None}])
    assert "the image missing.png" in record.rejected[0].reason


def test_polygons_are_united_as_pycocotools_does(root):
    polygons = [[0.5, 0.2, 7.3, 1.1, 4.2, 6.9], box_polygon(3, 3, 11, 7)]
    (record,) = opened(root, [{**LINE, "mask": {"polygons": polygons}}])
    expected = reference.decode(reference.merge(reference.frPyObjects(polygons, 8, 12)))
    np.testing.assert_array_equal(masks.decode(record.queries[0].target), expected)


def test_polygons_live_in_the_turned_image(root):
    (root / "a.png").write_bytes(rotated(colours(), 6))
    (record,) = opened(root, [LINE])
    assert record.queries[0].target["size"] == [12, 8]


def test_defaults_and_optional_keys(root):
    sentence = {**LINE, "instruction": " What is square? "}
    full = {**LINE, "split": "val", "kind": "reasoning", "length": "long", "topic": "size"}
    (record,) = opened(root, [LINE, sentence, full])
    first, second, third = record.queries
    assert (first.split, first.kind, first.length) == ("train", "referring", "short")
    assert (first.instruction, first.ignore, first.topic) == ("the box", None, "")
    assert (second.instruction, second.length) == ("What is square?", "long")
    assert (third.split, third.kind, third.length) == ("val", "reasoning", "long")
    assert third.topic == "size"


def test_an_empty_ignore_mask_is_no_ignore_mask(root):
    nothing = {"rle": {"size": [8, 12], "counts": [96]}}
    (record,) = opened(root, [{**LINE, "ignore": nothing}])
    assert record.queries[0].ignore is None


def test_several_texts_of_a_line_share_its_mask(root):
    line = {**LINE, "instruction": ["the box", "What is square here? "], "topic": "shape"}
    (record,) = opened(root, [line])
    assert [(q.instruction, q.length) for q in record.queries] == [
        ("the box", "short"),
        ("What is square here?", "long"),
    ]
    assert len({(q.target["counts"], q.topic) for q in record.queries}) == 1
    (record,) = opened(root, [{**line, "length": "short"}])
    assert {q.length for q in record.queries} == {"short"}


def test_several_masks_of_a_line_are_united(root):
    masks.write_png(root / "m.png", box_mask(6, 2, 9, 7))
    parts = [BOX, "m.png"]
    (record,) = opened(root, [{**LINE, "mask": parts, "ignore": parts}])
    expected = box_mask(1, 1, 4, 4) | box_mask(6, 2, 9, 7)
    np.testing.assert_array_equal(masks.decode(record.queries[0].target), expected)
    assert record.queries[0].ignore == record.queries[0].target


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"instruction": []}, "'instruction' must be a text that is not empty, got []"),
        ({"instruction": ["it", ""]}, "'instruction' must be a text"),
        ({"mask": []}, "'mask' must be a path"),
        ({"mask": [BOX, [BOX]]}, "'mask' must be a path"),
        ({"mask": [BOX, {"rle": {"size": [2, 2], "counts": [4]}}]}, "different sizes"),
    ],
)
def test_lists_that_make_no_sense_are_rejected(root, change, reason):
    dataset = opened(root, [LINE, {**LINE, **change}])
    rejected = [*dataset.rejected, *dataset[0].rejected]
    assert [r.what for r in rejected] == ["line 2"]
    assert reason in rejected[0].reason


def test_lines_of_an_image_are_grouped(root):
    other = {**LINE, "image": "b.png"}
    dataset = opened(root, [LINE, other, "", {**LINE, "image": "./a.png", "instruction": "it"}])
    assert [record.path for record in dataset] == [PurePosixPath("a.png"), PurePosixPath("b.png")]
    assert [query.instruction for query in dataset[0].queries] == ["the box", "it"]
    assert dataset.source == PurePosixPath("data.jsonl")


def test_split_and_limit(root):
    lines = [{**LINE, "split": "val"}, {**LINE, "image": "b.png"}, LINE]
    kept = opened(root, lines, split="train", limit=1)
    assert [record.path.name for record in kept] == ["b.png"]
    with pytest.raises(DatasetError, match=r"no line of split 'test'; splits found: train, val$"):
        opened(root, lines, split="test")


def test_byte_order_mark_and_windows_line_ends(root):
    text = json.dumps(LINE) + "\r\n" + json.dumps(LINE) + "\r\n"
    (root / "data.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (record,) = open_dataset(DataConfig(kind="jsonl", root=root))
    assert len(record.queries) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not valid JSON: Expecting property name enclosed in double quotes"),
        ("[" * 100000, "not valid JSON: nested too deeply"),
        ("[1]", "expected an object, got [1]"),
        ({**LINE, "colour": 1}, "unknown key 'colour'; known are image, instruction, mask, split"),
        ({"image": "a.png", "mask": BOX}, "the key 'instruction' is missing"),
        ({**LINE, "instruction": " "}, "'instruction' must be a text that is not empty, got ' '"),
        ({**LINE, "instruction": "\ud800"}, "'instruction' must be a text that is not empty, got"),
        ({**LINE, "image": "\ud800"}, "expected a path relative to the root, got '\\ud800'"),
        ({**LINE, "instruction": 3}, "'instruction' must be a text that is not empty, got 3"),
        ({**LINE, "split": None}, "'split' must be a text that is not empty, got None"),
        ({**LINE, "kind": "x"}, "'kind' must be one of class, referring, plural, reasoning, got"),
        ({**LINE, "length": []}, "'length' must be one of short, long, got []"),
        ({**LINE, "topic": 3}, "'topic' must be a text that is not empty, got 3"),
        ({**LINE, "image": "../a.png"}, "the path '../a.png' leads outside the root"),
        ({**LINE, "image": "/etc/a.png"}, "the path '/etc/a.png' leads outside the root"),
        ({**LINE, "image": "a\0.png"}, "expected a path relative to the root, got 'a\\x00.png'"),
        ({**LINE, "mask": "x/../../m.png"}, "the path 'x/../../m.png' leads outside the root"),
        ({**LINE, "mask": {"polygon": []}}, "'mask' must be a path, {\"polygons\": ...} or"),
        ({**LINE, "ignore": 3}, "'ignore' must be a path, {\"polygons\": ...} or"),
    ],
)
def test_bad_line_is_rejected_with_its_number(root, line, reason):
    dataset = opened(root, [LINE, "", line])
    (rejected,) = dataset.rejected
    assert rejected.what == "line 3"
    assert rejected.reason.startswith(reason)
    assert len(dataset[0].queries) == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask": "gone.png"}, "the mask file gone.png: No such file or directory"),
        ({"mask": "text.png"}, "the mask file text.png: not an image of a known format"),
        ({"mask": "cut.png"}, "the mask file cut.png: "),
        ({"mask": "black.png"}, "the mask has no foreground"),
        ({"mask": {"polygons": [[1, 2, 3, 4]]}}, "'mask': a polygon needs at least 3 points"),
        (
            {"mask": {"polygons": [[0, 0, 4, 0, 4, 10**400]]}},
            "'mask': a polygon lies far outside the image: 1000",
        ),
        ({"mask": {"polygons": 5}}, "'mask': expected a list of polygons, got 5"),
        ({"mask": {"polygons": [7]}}, "'mask': expected a polygon [x0, y0, x1, y1, ...], got 7"),
        ({"mask": {"rle": 5}}, '\'mask\': expected {"size": [h, w], "counts": ...}, got 5'),
        (
            {"mask": {"rle": {"size": [8], "counts": []}}},
            "'mask': the size of an RLE is [height, width], got [8]",
        ),
        (
            {"mask": {"rle": {"size": [10**9, 10**9], "counts": "0"}}},
            "'mask': an RLE of 1000000000 x 1000000000 pixels",
        ),
        (
            {"mask": {"rle": {"size": [8, 12], "counts": 5}}},
            "'mask': the counts of an RLE are a text or a list, got 5",
        ),
        (
            {"ignore": {"rle": {"size": [2, 2], "counts": [0, 4]}}},
            "'mask' and 'ignore' differ in size",
        ),
        ({"ignore": {"polygons": []}}, "'ignore': expected a list of polygons, got []"),
    ],
)
def test_bad_mask_is_rejected_in_the_record(root, change, reason):
    (root / "text.png").write_text("hello")
    masks.write_png(root / "black.png", np.zeros((8, 12), dtype=bool))
    (root / "cut.png").write_bytes((root / "a.png").read_bytes()[:80])
    (record,) = opened(root, [LINE, {**LINE, **change}])
    (rejected,) = record.rejected
    assert rejected.what == "line 2"
    assert rejected.reason.startswith(reason)
    assert len(record.queries) == 1


def test_polygons_of_a_missing_image(root):
    dataset = opened(root, [LINE, {**LINE, "image": "gone.png"}])
    (rejected,) = dataset[1].rejected
    assert rejected.reason == "the image gone.png: No such file or directory"


def test_not_utf_8(root):
    (root / "data.jsonl").write_bytes(json.dumps(LINE).encode() + b'\n{"image": "\xff"}\n')
    (rejected,) = open_dataset(DataConfig(kind="jsonl", root=root)).rejected
    assert (rejected.what, rejected.reason) == ("line 2", "not UTF-8 text")


def test_nothing_usable(root):
    with pytest.raises(DatasetError, match=r"file is empty; expected one JSON object per line$"):
        opened(root, ["", " "])
    with pytest.raises(DatasetError, match=r"none of 2 lines is usable; line 1: expected an obj"):
        opened(root, ["1", "2"])
    message = r"reading .*other.jsonl: No such file or directory; expected a file"
    with pytest.raises(DatasetError, match=message):
        opened(root, [LINE], file="other.jsonl")
