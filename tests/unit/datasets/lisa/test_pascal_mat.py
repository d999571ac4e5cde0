"""PASCAL-Part's MATLAB files to the COCO file that LISA reads."""

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.pascal_mat import categories, convert
from lens_cache.datasets.lisa.sets import parse_set
from lens_cache.errors import ConfigError, DatasetError
from lens_cache.images import masks
from pipelines.cli import app
from tests.support.lisa_semantic import write_mat, write_photo
from tests.support.pictures import box_mask

WHOLE = box_mask(0, 0, 12, 8)
PART = box_mask(2, 1, 5, 4)


def one(folder, *objects, name="2008_000002"):
    write_mat(folder / f"{name}.mat", objects)
    return convert(folder, [name])


def test_the_categories_are_vlparts():
    found = {entry["id"]: entry["name"] for entry in categories()}
    assert len(found) == 93
    assert list(found) == list(range(1, 94))
    assert found[1] == "aeroplane:body"
    assert found[37] == "cat:nose"
    assert found[56] == "dog:muzzle"
    assert found[71] == "person:hair"
    assert found[84] == "potted plant:pot"
    assert found[93] == "sheep:torso"
    assert [entry["id"] for entry in categories() if "abbr" in entry] == [19, 25, 35, 53]
    assert categories()[34] == {"id": 35, "name": "cat:paw", "abbr": "cat:pa"}


@pytest.mark.parametrize(
    ("thing", "part", "number"),
    [
        ("cat", "rear", 33),  # the right ear, not a rear
        ("cat", "lfpa", 35),
        ("cat", "lfleg", 32),
        ("bus", "fliplate", 19),
        ("bicycle", "chainwheel", 5),
        ("aeroplane", "stern", None),
        ("aeroplane", "wheel_3", 4),
        ("person", "lebrow", None),
        ("person", "hair", 71),
        ("person", "llleg", 80),
        ("pottedplant", "pot", 84),
        ("pottedplant", "plant", 83),
        ("horse", "rfho", None),
        ("horse", "lbuleg", 60),
        ("tvmonitor", "screen", None),
    ],
)
def test_parts_are_merged_as_vlpart_does(tmp_path, thing, part, number):
    document, rejected = one(tmp_path, (thing, WHOLE, {part: PART}))
    found = [entry["category_id"] for entry in document["annotations"]]
    assert found == ([] if number is None else [number])
    assert len(document["images"]) == len(found)
    assert rejected == []


def test_an_annotation_is_vlparts(tmp_path):
    document, _ = one(
        tmp_path,
        ("boat", WHOLE, {}),
        ("dog", WHOLE, {"head": PART, "nose": box_mask(11, 7, 12, 8)}),
        ("dog", WHOLE, {"tail": box_mask(0, 0, 1, 8)}),
    )
    assert document["images"] == [
        {"id": 2008000002, "file_name": "2008_000002.jpg", "height": 8, "width": 12}
    ]
    assert [entry["id"] for entry in document["annotations"]] == [0, 1, 2]
    first = document["annotations"][0]
    assert first["bbox"] == [2.0, 1.0, 2.0, 2.0]  # to the last pixel, not past it
    assert first["area"] == 4.0
    assert first["iscrowd"] == 0
    assert isinstance(first["segmentation"]["counts"], str)
    np.testing.assert_array_equal(masks.decode(first["segmentation"]), PART)
    assert json.loads(json.dumps(document)) == document


def test_what_cannot_be_read_is_set_aside(tmp_path):
    write_mat(tmp_path / "2008_000001.mat", [("dog", WHOLE, {"head": PART})])
    write_mat(
        tmp_path / "2008_000002.mat",
        [("dog", WHOLE, {"head": PART, "tail": ~WHOLE, "nose": np.ones((3, 3))})],
    )
    (tmp_path / "2008_000003.mat").write_bytes(b"MATLAB 7.3 is HDF5")
    whole = (tmp_path / "2008_000001.mat").read_bytes()
    (tmp_path / "2008_000004.mat").write_bytes(whole[: len(whole) // 2])
    names = [f"2008_00000{n}" for n in (1, 2, 3, 4, 5)]
    document, rejected = convert(tmp_path, [*names, "../2008_000001"])
    assert [image["id"] for image in document["images"]] == [2008000001, 2008000002]
    assert [entry.what for entry in rejected] == [
        "2008_000002.mat: dog, tail",
        "2008_000002.mat: dog, nose",
        "image 2008_000003",
        "image 2008_000004",
        "image 2008_000005",
        "image ../2008_000001",
    ]
    assert "is not a file of PASCAL-Part" in rejected[2].reason
    assert "is missing" in rejected[4].reason
    assert "expected a name like 2008_000002" in rejected[5].reason


@pytest.mark.parametrize("given", ["", "VOCdevkit", "Annotations_Part"])
def test_the_command_makes_what_the_set_reads(tmp_path, given):
    folder = tmp_path / "vlpart/pascal_part"
    devkit = folder / "VOCdevkit"
    write_mat(folder / "Annotations_Part/2008_000002.mat", [("dog", WHOLE, {"head": PART})])
    write_mat(folder / "Annotations_Part/2008_000003.mat", [("boat", WHOLE, {})])
    write_photo(devkit / "VOC2010/JPEGImages/2008_000002.jpg", 8, 12)
    lists = devkit / "VOC2010/ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2008_000002\n2008_000003\n2008_000009\n\n")
    out = folder / "train.json"
    result = CliRunner().invoke(app, ["data", "pascal-part", str(folder / given), str(out)])
    assert result.exit_code == 0, result.output
    assert f"wrote {out}; images: 1, annotations: 1, skipped: 1" in result.output
    assert "skipped: image 2008_000009" in result.output
    assert [path.name for path in out.parent.glob("train*")] == ["train.json"]
    name = parse_set("pascal_part", KINDS)
    (record,) = KINDS["pascal_part"].open(tmp_path, name, "strict")
    assert record.queries[0].instruction == "dog head"
    np.testing.assert_array_equal(masks.decode(record.queries[0].target), PART)


def test_the_command_says_what_is_missing(tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, ["data", "pascal-part", *map(str, arguments)]).exception

    out = tmp_path / "out.json"
    assert "no *.mat file in" in str(run(tmp_path, out))
    write_mat(tmp_path / "2008_000003.mat", [("boat", WHOLE, {})])
    assert "no train.txt in VOCdevkit/VOC2010/ImageSets/Main in" in str(run(tmp_path, out))
    names = tmp_path / "names.txt"
    names.write_text("\n")
    assert "names.txt is empty" in str(run(tmp_path, out, "--split", names))
    names.write_text("2008_000003\n2008_000004\n")
    error = run(tmp_path, out, "--split", names)
    assert isinstance(error, DatasetError)
    assert "no image with a part of the categories; the first: image 2008_000004" in str(error)
    assert not out.exists()


def test_without_scipy_the_command_names_the_extra(tmp_path, monkeypatch):
    write_mat(tmp_path / "2008_000002.mat", [("dog", WHOLE, {"head": PART})])
    (tmp_path / "names.txt").write_text("2008_000002\n")
    monkeypatch.setitem(sys.modules, "scipy.io", None)  # its import fails
    split = ["--split", str(tmp_path / "names.txt")]
    arguments = ["data", "pascal-part", str(tmp_path), str(tmp_path / "out.json"), *split]
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, ConfigError)
    assert "needs scipy" in str(error)
    assert "run `pip install 'lens-cache[pascal]'`" in str(error)
    assert "\n" not in str(error)
    assert not (tmp_path / "out.json").exists()
