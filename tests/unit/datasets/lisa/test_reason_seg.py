import json
from pathlib import PurePosixPath

import cv2
import numpy as np
import pytest

from lens_cache.config.data import DataConfig, LisaConfig
from lens_cache.datasets.lisa.reason_seg import label_map
from lens_cache.datasets.lisa.sets import MissingSetError
from lens_cache.datasets.registry import open_dataset
from lens_cache.images import masks
from lens_cache.plan.build import build_plan
from tests.support.lisa_refer_world import HEIGHT, REASONS, WIDTH, box_points, shape, write_reason
from tests.support.pictures import box_mask, colours, rotated

BOX = shape("target", box_points(1, 1, 4, 4))
PAPER = ("Who could roll?", "What is round here?", "Which part may roll away?")


def config(root, split="train", rules="strict"):
    lisa = LisaConfig(sets=(f"reason_seg|{split}",), rules=rules)
    return DataConfig(kind="lisa", root=root, lisa=lisa)


def records(root, split="train", rules="strict"):
    return list(open_dataset(config(root, split, rules)))


def drawn(points, height=HEIGHT, width=WIDTH):
    """One outline, filled; as LISA draws it."""
    canvas = np.zeros((height, width), np.uint8)
    corners = np.array([points]).astype(int).astype(np.int32)
    cv2.polylines(canvas, corners, True, 1, 1)
    cv2.fillPoly(canvas, corners, 1)
    return canvas.astype(bool)


def labels_of(shapes, height=HEIGHT, width=WIDTH):
    """Pixel by pixel: the smallest outline over a pixel says what it is."""
    pieces = [
        (drawn(s["points"], height, width), 255 if "ignore" in s["label"].lower() else 1)
        for s in shapes
        if s["label"].lower() != "flag"
    ]
    found = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            over = [(piece.sum(), value) for piece, value in pieces if piece[y, x]]
            found[y, x] = min(over)[1] if over else 0
    return found


def test_the_outline_belongs_to_the_mask(tmp_path):
    write_reason(tmp_path, "train", "a", [BOX])
    (record,) = records(tmp_path)
    target = masks.decode(record.queries[0].target)
    np.testing.assert_array_equal(target, box_mask(1, 1, 5, 5))  # COCO would end at 4


def test_points_are_cut_not_rounded_and_may_lie_outside(tmp_path):
    points = [[-3.9, 1.9], [6.99, 1.2], [6.99, 20.5], [-3.2, 20.5]]
    write_reason(tmp_path, "train", "a", [shape("target", points)])
    (record,) = records(tmp_path)
    target = masks.decode(record.queries[0].target)
    np.testing.assert_array_equal(target, box_mask(0, 1, 7, 8))


def test_polygons_are_drawn_as_by_the_version_that_defines_the_benchmark():
    """OpenCV 4.11 and later draw 29 pixels here; 4.8, which LISA pins, draws 30."""
    labels = label_map([shape("target", [[1, 6], [9, 1], [10, 5]])], 12, 12)
    rows = ["".join(".#"[pixel] for pixel in row) for row in labels[1:7]]
    assert rows == [
        ".........#..",
        ".......###..",
        "......#####.",
        "....#######.",
        "..#########.",
        ".#####......",
    ]
    assert labels.sum() == 30


SCENES = {
    "ignore inside": [BOX, shape("ignore", box_points(2, 2, 3, 3))],
    "target inside ignore": [
        shape("target", box_points(3, 3, 5, 5)),
        shape("Ignore_2", box_points(1, 1, 9, 6)),
    ],
    "any case": [BOX, shape("IGNORE region", box_points(3, 3, 7, 6))],
    "flag": [BOX, shape("flag", box_points(0, 0, 11, 7)), shape("FLAG", [])],
    "two targets": [BOX, shape("target", box_points(6, 2, 9, 7))],
    "other label": [shape("thing", box_points(2, 2, 5, 5))],
    "cut by the border": [
        shape("target", box_points(-20, 2, 1, 6)),
        shape("ignore", box_points(0, 0, 3, 5)),
    ],
    "a line and a point": [shape("target", [[1, 1], [9, 6]]), shape("ignore", [[5, 5]])],
}


@pytest.mark.parametrize("name", SCENES)
def test_labels_against_a_pixelwise_reference(tmp_path, name):
    shapes = SCENES[name]
    expected = labels_of([s for s in shapes if s["points"]])
    assert (expected == 1).any()
    write_reason(tmp_path, "val", "a", shapes)
    write_reason(tmp_path, "train", "a", shapes)
    for split, rules, ignores in (
        ("train", "strict", True),
        ("train", "parity", False),
        ("val", "strict", True),
        ("val", "parity", True),
    ):
        (record,) = records(tmp_path, split, rules)
        (query,) = record.queries
        np.testing.assert_array_equal(masks.decode(query.target), expected == 1)
        if ignores and (expected == 255).any():
            np.testing.assert_array_equal(masks.decode(query.ignore), expected == 255)
        else:
            assert query.ignore is None


def test_of_equal_outlines_the_first_in_the_file_is_on_top():
    """LISA sorts by area and turns the order round, which turns equal ones round too."""
    shapes = [BOX, shape("ignore", box_points(3, 3, 6, 6))]
    for order in (shapes, shapes[::-1]):
        expected = 1 if order[0] is BOX else 255
        labels = label_map(order, HEIGHT, WIDTH)
        assert labels[3, 3] == labels[4, 4] == expected
        assert sorted(set(labels.ravel())) == [0, 1, 255]


def test_random_outlines_against_the_reference():
    rng = np.random.default_rng(0)
    for _ in range(40):
        shapes = [
            shape(
                "ignore" if rng.random() < 0.4 else "target",
                (rng.uniform(-8, 40, (rng.integers(3, 9), 2))).tolist(),
            )
            for _ in range(rng.integers(1, 6))
        ]
        areas = [drawn(s["points"], 24, 32).sum() for s in shapes]
        if len(set(areas)) == len(areas):
            np.testing.assert_array_equal(label_map(shapes, 24, 32), labels_of(shapes, 24, 32))


def test_training_asks_every_text_and_evaluation_the_first(tmp_path):
    for split in ("train", "val", "test"):
        write_reason(tmp_path, split, "a", [BOX], text=(f" {PAPER[0]} ", *PAPER[1:]))
    (record,) = records(tmp_path)
    assert [q.instruction for q in record.queries] == list(PAPER)
    assert len({q.target["counts"] for q in record.queries}) == 1
    for split in ("val", "test"):
        (record,) = records(tmp_path, split)
        assert [q.instruction for q in record.queries] == [PAPER[0]]
        assert record.queries[0].split == split
    assert record.dataset == "reason_seg"
    assert record.path == PurePosixPath(REASONS) / "test" / "a.jpg"


@pytest.mark.parametrize(("is_sentence", "length"), [(True, "long"), (False, "short")])
def test_is_sentence_decides_not_how_it_reads(tmp_path, is_sentence, length):
    write_reason(tmp_path, "train", "a", [BOX], text=["The Round Thing?"], is_sentence=is_sentence)
    write_reason(tmp_path, "val", "a", [BOX], text=["The Round Thing?"], is_sentence=is_sentence)
    (query,) = records(tmp_path)[0].queries
    assert (query.kind, query.length) == ("reasoning", length)
    assert query.instruction == ("The Round Thing?" if is_sentence else "the round thing?")
    (query,) = records(tmp_path, "val")[0].queries
    assert (query.instruction, query.length) == ("The Round Thing?", length)


def test_a_text_in_the_code_page_of_windows(tmp_path):
    text = "the “café” on a menu"
    write_reason(tmp_path, "train", "a", [BOX], text=[text], encoding="cp1252")
    write_reason(tmp_path, "train", "b", [BOX], text=[text], encoding="utf-8", seed=1)
    write_reason(tmp_path, "train", "c", [BOX], text=[text], encoding="utf-8-sig", seed=2)
    assert [r.queries[0].instruction for r in records(tmp_path)] == [text] * 3


@pytest.mark.parametrize(
    ("split", "rules", "kept"),
    [
        ("train", "strict", False),
        ("train", "parity", True),
        ("val", "strict", True),
        ("test", "parity", True),
    ],
)
@pytest.mark.parametrize("shapes", [[], [shape("flag", box_points(1, 1, 4, 4))]])
def test_an_image_without_a_target(tmp_path, split, rules, kept, shapes):
    write_reason(tmp_path, split, "a", shapes)
    (record,) = records(tmp_path, split, rules)
    if kept:
        assert record.rejected == ()
        (query,) = record.queries
        assert query.target["size"] == [HEIGHT, WIDTH]
        assert not masks.decode(query.target).any()
        assert query.ignore is None
    else:
        assert record.queries == ()
        (rejected,) = record.rejected
        assert rejected.what == "its notes a.json"
        assert "nothing to train on" in rejected.reason


def test_images_come_by_name_and_only_jpg_counts(tmp_path):
    for number, name in enumerate(("scene9", "b", "A", "scene10")):
        write_reason(tmp_path, "val", name, [BOX], seed=number)
    (tmp_path / REASONS / "val" / "b.png").write_bytes(b"")
    names = [record.path.stem for record in records(tmp_path, "val")]
    assert names == ["A", "b", "scene10", "scene9"]


def test_masks_live_in_the_turned_image(tmp_path):
    path = write_reason(tmp_path, "val", "a", [shape("target", box_points(1, 8, 6, 10))])
    path.write_bytes(rotated(colours(), 6))
    (record,) = records(tmp_path, "val")
    target = masks.decode(record.queries[0].target)
    np.testing.assert_array_equal(target, box_mask(1, 8, 7, 11, width=8, height=12))


def test_a_text_that_stands_there_twice_is_two_queries(tmp_path):
    write_reason(tmp_path, "train", "a", [BOX], text=["Who?", "Who?", "Who rolls?"])
    plan = build_plan(config(tmp_path))
    assert [q.instruction for q in plan.queries_of(0)] == ["Who?", "Who?", "Who rolls?"]


BAD = {
    "shapes": {"shapes": None},
    "shapes to be a list": {"shapes": {"label": "target"}},
    "a shape with a label": {"shapes": [{"points": [[1, 1]]}]},
    "points [[x, y]": {"shapes": [{"label": "target", "points": [[1, 1], [2]]}]},
    "points [[x, y], ...]": {"shapes": [{"label": "target", "points": []}]},
    "far outside the image": {"shapes": [{"label": "target", "points": [[1e12, 1]]}]},
    "lies far outside": {"shapes": [{"label": "ignore", "points": [[float("nan"), 1]]}]},
    "text to be a list": {"text": "Who?"},
    "a list of texts": {"text": [""]},
    "text to be a list of texts, got []": {"text": []},
    "is_sentence to be true or false": {"is_sentence": "yes"},
}


@pytest.mark.parametrize("reason", BAD)
def test_bad_notes_are_one_line_and_the_others_stand(tmp_path, reason):
    path = write_reason(tmp_path, "train", "a", [BOX])
    write_reason(tmp_path, "train", "b", [BOX], seed=1)
    notes = json.loads(path.with_suffix(".json").read_text()) | BAD[reason]
    path.with_suffix(".json").write_text(json.dumps(notes))
    plan = build_plan(config(tmp_path))
    assert [image["path"] for image in plan.images.to_pylist()] == [f"{REASONS}/train/b.jpg"]
    (row,) = plan.quarantine.to_pylist()
    assert row["path"] == f"{REASONS}/train/a.jpg"
    assert row["what"] == "its notes a.json"
    assert reason in row["reason"]
    assert "\n" not in row["reason"]


def test_files_that_are_missing_or_broken_are_set_aside(tmp_path):
    for number, name in enumerate("abcdef"):
        write_reason(tmp_path, "train", name, [BOX], seed=number)
    folder = tmp_path / REASONS / "train"
    (folder / "a.json").unlink()
    (folder / "b.json").write_bytes(b"{")
    (folder / "c.json").write_bytes(b"\x81\x8d")
    (folder / "d.json").write_bytes(b"[]")
    (folder / "e.jpg").write_bytes(b"")
    plan = build_plan(config(tmp_path))
    reasons = {row["path"][-5:]: row["reason"] for row in plan.quarantine.to_pylist()}
    assert reasons["a.jpg"] == "cannot be read: No such file or directory"
    assert reasons["b.jpg"].startswith("not valid JSON")
    assert reasons["c.jpg"] == "neither UTF-8 nor cp1252 text"
    assert reasons["d.jpg"] == "expected an object, got []"
    assert reasons["e.jpg"] == "its image: the file is empty"
    assert plan.num_images == 1


def test_a_missing_split_says_where_to_get_it(tmp_path):
    with pytest.raises(MissingSetError, match=r"reason_seg/ReasonSeg/val not found.*get ReasonSeg"):
        records(tmp_path, "val")
    (tmp_path / REASONS / "val").mkdir(parents=True)
    with pytest.raises(MissingSetError, match=r"val/\*\.jpg not found"):
        records(tmp_path, "val")
