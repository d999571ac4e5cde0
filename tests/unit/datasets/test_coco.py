import json
import shutil
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as reference

from lens_cache.config.data import DataConfig
from lens_cache.datasets.registry import open_dataset
from lens_cache.errors import ConfigError, DatasetError
from lens_cache.images import masks
from tests.support.pictures import box_mask, box_polygon, edit_json, write_coco


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "coco")


def opened(root, **settings):
    return open_dataset(DataConfig(root=root, **{"split": "train2017", **settings}))


def by_name(record):
    return {query.instruction: query for query in record.queries}


def reasons(record):
    return [(item.what, item.reason) for item in record.rejected]


def edit_instances(root, change):
    edit_json(root / "annotations/instances_train2017.json", change)


def edit_panoptic(root, change):
    edit_json(root / "annotations/panoptic_train2017.json", change)


def test_instances_are_united_per_category(root):
    dataset = opened(root, annotations="instances")
    assert dataset.source == PurePosixPath("annotations/instances_train2017.json")
    record = dataset[0]
    assert record.path == PurePosixPath("train2017/0000.png")
    assert record.dataset == "coco"
    assert record.rejected == ()
    queries = by_name(record)
    assert list(queries) == ["dog", "person"]
    person = queries["person"]
    assert (person.kind, person.length, person.split) == ("class", "short", "train2017")
    polygons = [box_polygon(0, 0, 3, 3), box_polygon(5, 1, 8, 6)]
    union = reference.decode(reference.merge(reference.frPyObjects(polygons, 8, 12)))
    np.testing.assert_array_equal(masks.decode(person.target), union)
    np.testing.assert_array_equal(masks.decode(queries["dog"].target), box_mask(8, 0, 11, 4))


def test_crowd_is_ignored_for_its_category_where_it_is_not_target(root):
    queries = by_name(opened(root, annotations="instances")[0])
    crowd = box_mask(0, 5, 12, 8) & ~masks.decode(queries["person"].target)
    np.testing.assert_array_equal(masks.decode(queries["person"].ignore), crowd)
    assert queries["dog"].ignore is None


def test_only_crowd_gives_no_query(root):
    def change(document):
        document["annotations"] = [a for a in document["annotations"] if a["id"] in (12, 13)]

    edit_instances(root, change)
    record = opened(root, annotations="instances")[0]
    assert list(by_name(record)) == ["dog"]
    reason = "only crowd regions, nothing to segment on its own"
    assert reasons(record) == [("category 'person'", reason)]


def panoptic_by_hand(root, name):
    """Read the PNG file pixel by pixel."""
    with Image.open(root / "annotations/panoptic_train2017" / name) as image:
        width, height = image.size
        ids = np.zeros((height, width), dtype=int)
        for y in range(height):
            for x in range(width):
                r, g, b = image.getpixel((x, y))
                ids[y, x] = r + 256 * g + 65536 * b
    return ids


def test_panoptic_equals_decoding_by_hand(root):
    dataset = opened(root, annotations="panoptic")
    document = json.loads((root / "annotations/panoptic_train2017.json").read_text())
    clean = {1: "person", 18: "dog", 184: "tree", 199: "wall"}
    assert len(dataset) == 3
    for record, annotation in zip(dataset, document["annotations"], strict=True):
        ids = panoptic_by_hand(root, annotation["file_name"])
        expected, crowd = {}, {}
        for segment in annotation["segments_info"]:
            areas = crowd if segment["iscrowd"] else expected
            name = clean[segment["category_id"]]
            areas[name] = areas.get(name, np.zeros_like(ids, dtype=bool)) | (ids == segment["id"])
        queries = by_name(record)
        assert set(queries) == set(expected)
        assert record.rejected == ()
        for name, query in queries.items():
            np.testing.assert_array_equal(masks.decode(query.target), expected[name])
            ignore = (ids == 0) | crowd.get(name, np.zeros_like(ids, dtype=bool))
            np.testing.assert_array_equal(masks.decode(query.ignore), ignore)


def test_auto_prefers_panoptic(root):
    assert "panoptic" in opened(root).source.name
    (root / "annotations/panoptic_train2017.json").unlink()
    assert "instances" in opened(root).source.name


def test_categories_with_the_same_clean_name_are_merged(root):
    def change(document):
        document["categories"][1]["name"] = "person-other"

    edit_instances(root, change)
    queries = by_name(opened(root, annotations="instances")[0])
    assert list(queries) == ["person"]
    boxes = box_mask(0, 0, 3, 3) | box_mask(5, 1, 8, 6) | box_mask(8, 0, 11, 4)
    np.testing.assert_array_equal(masks.decode(queries["person"].target), boxes)


@pytest.mark.parametrize("name", ["wall-other-merged", "wall"])
def test_categories_filter_takes_both_spellings(root, name):
    records = list(opened(root, categories=[name]))
    assert [list(by_name(record)) for record in records] == [["wall"]] * 3


def test_filtered_images_do_not_count_towards_the_limit(root):
    dataset = opened(root, categories=["dog"], limit=2)
    assert [record.path.name for record in dataset] == ["0000.png", "0002.png"]


def test_unknown_category_names_close_ones(root):
    with pytest.raises(ConfigError) as caught:
        opened(root, categories=["persn"])
    message = "'persn' is not a category of this dataset; did you mean 'person'?"
    assert str(caught.value) == f"data.categories: {message}"


def test_order_is_by_file_name_and_limit_keeps_the_first(root):
    edit_instances(root, lambda document: document["images"].reverse())
    dataset = opened(root, annotations="instances", limit=2)
    assert [record.path.name for record in dataset] == ["0000.png", "0001.png"]
    assert len(dataset) == 2


@pytest.mark.parametrize("images_in", ["train2017", "images/train2017", "."])
def test_places_of_images(tmp_path, images_in):
    root = write_coco(tmp_path, images_in=images_in)
    expected = PurePosixPath(images_in) / "0000.png"
    assert opened(root)[0].path == expected


def test_missing_image_is_looked_for_in_the_split(root):
    shutil.rmtree(root / "train2017")
    assert opened(root)[0].path == PurePosixPath("train2017/0000.png")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"category_id": 999}, "unknown category id 999"),
        ({"category_id": None}, "unknown category id None"),
        ({"category_id": ...}, "has no category_id"),
        ({"segmentation": ...}, "has no segmentation"),
        ({"segmentation": []}, "expected a list of polygons, got []"),
        ({"segmentation": [[1, 1, 5, 5]]}, "a polygon needs at least 3 points, got 4 values"),
        ({"segmentation": [[1, 1, 5, 5, 9]]}, "a polygon needs at least 3 points, got 5 values"),
        ({"segmentation": [["a"] * 6]}, "a polygon holds numbers, got 'a'"),
        (
            {"segmentation": [[0, 0, 1, 1, float("nan"), 1]]},
            "a polygon lies far outside the image: nan",
        ),
        (
            {"segmentation": [[0, 0, 1, 1, 1e12, 1]]},
            "a polygon lies far outside the image: 1000000000000.0",
        ),
        ({"segmentation": [[20, 20, 30, 20, 30, 30]]}, "the mask has no foreground"),
        (
            {"segmentation": {"size": [4, 4], "counts": [0, 16]}},
            "the mask is 4 x 4 pixels, the image 12 x 8",
        ),
        (
            {"segmentation": {"size": [8, 12], "counts": [5]}},
            "run lengths add up to 5 pixels, the mask has 8 x 12",
        ),
        (
            {"segmentation": {"size": [8, 12], "counts": "~~~"}},
            "the counts are not a compressed COCO run-length encoding",
        ),
        (
            {"segmentation": {"size": [8, 12], "counts": [97, -1]}},
            "run lengths must be integers of at least 0",
        ),
    ],
)
def test_bad_annotation_is_rejected_and_the_others_stay(root, change, reason):
    def apply(document):
        annotation = document["annotations"][3]
        for key, value in change.items():
            if value is ...:
                del annotation[key]
            else:
                annotation[key] = value

    edit_instances(root, apply)
    record = opened(root, annotations="instances")[0]
    assert reasons(record) == [("annotation 13", reason)]
    assert list(by_name(record)) == ["person"]


def test_image_without_size(root):
    edit_instances(root, lambda document: document["images"][1].pop("width"))
    record = opened(root, annotations="instances")[1]
    assert record.queries == ()
    assert {reason for _, reason in reasons(record)} == {"the image's width and height are None, 8"}


def test_annotations_of_no_image_are_rejected_by_the_dataset(root):
    def change(document):
        document["annotations"] += [{"id": 77, "image_id": 55}, 3]

    edit_instances(root, change)
    rejected = opened(root, annotations="instances").rejected
    assert [(item.what, item.reason) for item in rejected] == [
        ("annotation 77", "no image has its image_id 55"),
        ("annotation at position 12", "no image has its image_id None"),
    ]


def test_panoptic_pixels_without_segment_are_void(root):
    def change(document):
        segments = document["annotations"][1]["segments_info"]
        document["annotations"][1]["segments_info"] = [s for s in segments if s["id"] != 70000]

    edit_panoptic(root, change)
    record = opened(root)[1]
    ids = panoptic_by_hand(root, "0001.png")
    ignore = by_name(record)["wall"].ignore
    np.testing.assert_array_equal(masks.decode(ignore), (ids == 0) | (ids == 70000))
    reason = "occurs in the PNG file but not, or not properly, in segments_info"
    assert reasons(record) == [("pixels of segment 70000", reason)]


def test_panoptic_bad_segments(root):
    def change(document):
        segments = document["annotations"][1]["segments_info"]
        segments += [{"id": 12345, "category_id": 1}, {"id": 5}, "segment", dict(segments[0])]

    edit_panoptic(root, change)
    record = opened(root)[1]
    assert reasons(record) == [
        ("segment 12345", "does not occur in the PNG file"),
        ("segment 5", "has no category_id"),
        ("segment at position 6", "expected an object, got 'segment'"),
        ("segment 300", "stands in segments_info twice"),
    ]
    assert list(by_name(record)) == ["person", "tree", "wall"]


def test_panoptic_png_missing_broken_or_of_another_size(root):
    folder = root / "annotations/panoptic_train2017"
    (folder / "0000.png").unlink()
    (folder / "0001.png").write_bytes((folder / "0002.png").read_bytes()[:60])
    Image.new("RGB", (5, 4)).save(folder / "0002.png")
    records = list(opened(root))
    assert [reasons(record) for record in records] == [
        [("annotation '0000.png'", "its PNG file is missing")],
        [("annotation '0001.png'", "its PNG file cannot be decoded")],
        [("annotation '0002.png'", "the mask is 5 x 4 pixels, the image 12 x 8")],
    ]
    assert all(record.queries == () for record in records)


def test_panoptic_annotation_may_not_leave_its_folder(root):
    def change(document):
        document["annotations"][0]["file_name"] = "../x.png"
        del document["annotations"][1]["segments_info"]
        document["annotations"].append(document["annotations"][2])

    edit_panoptic(root, change)
    records = list(opened(root))
    assert reasons(records[0])[0][1] == "the path '../x.png' leads outside the root"
    assert reasons(records[1])[0][1] == "has no segments_info"
    assert reasons(records[2])[0][1] == "the image has more than one panoptic annotation"


def test_split_not_set(root):
    message = "data.split is not set; splits found: train2017; several are separated by commas$"
    with pytest.raises(ConfigError, match=message):
        opened(root, split=None)


def test_split_that_is_not_there(root):
    message = r"expected panoptic_val.json or instances_val.json in .*annotations; splits found: tr"
    with pytest.raises(DatasetError, match=message):
        opened(root, split="val")


def test_root_missing_or_not_set(tmp_path):
    with pytest.raises(DatasetError, match=r"data.root is not set; give its folder"):
        open_dataset(DataConfig(split="train2017"))
    with pytest.raises(DatasetError, match=r"data.root=.*nowhere is not a folder"):
        opened(tmp_path / "nowhere")


def test_folder_of_png_files_missing(root):
    shutil.rmtree(root / "annotations/panoptic_train2017")
    with pytest.raises(DatasetError, match=r"panoptic_train2017.zip or set data.annotations=inst"):
        opened(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON: Expecting property name"),
        ("[]", "'images' is missing"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": []}',
            "file_name of image 1: expected a path relative to the root, got None",
        ),
        (
            '{"images": [{"id": 1, "file_name": "/a"}], "annotations": [], "categories": []}',
            "file_name of image 1: the path '/a' leads outside the root",
        ),
        (
            '{"images": [{}], "annotations": [], "categories": []}',
            "image at position 0: its id must be an integer, got None",
        ),
        (
            '{"images": [{"id": 1}, {"id": 1}], "annotations": [], "categories": []}',
            "image 1: another image has its id",
        ),
        ('{"images": [], "annotations": [], "categories": [1]}', "a category needs id and name"),
        (
            '{"images": [], "annotations": [], "categories": []}',
            "has no image with a usable annotation",
        ),
    ],
)
def test_unreadable_annotation_file(root, text, message):
    path = root / "annotations/instances_train2017.json"
    path.write_text(text)
    with pytest.raises(DatasetError) as caught:
        opened(root, annotations="instances")
    assert message in str(caught.value)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_labelling_tool_exports(tmp_path):
    root = write_coco(tmp_path / "coco")
    folder = root / "train"
    (root / "train2017").rename(folder)
    (root / "annotations/instances_train2017.json").rename(folder / "_annotations.coco.json")
    shutil.rmtree(root / "annotations")
    with pytest.raises(ConfigError, match=r"splits found: train; several"):
        opened(root, split=None)
    dataset = opened(root, split="train")
    assert dataset.source == PurePosixPath("train/_annotations.coco.json")
    assert dataset[0].path == PurePosixPath("train/0000.png")
    assert list(by_name(dataset[0])) == ["dog", "person"]
    with pytest.raises(DatasetError, match=r"expected panoptic_train\.json"):
        opened(root, split="train", annotations="panoptic")


def exported(root, *splits):
    """Write what a labelling tool exports: a folder for each split."""
    for split in splits:
        write_coco(root / "made")
        (root / "made/train2017").rename(root / split)
        annotations = root / "made/annotations/instances_train2017.json"
        annotations.rename(root / split / "_annotations.coco.json")
        shutil.rmtree(root / "made")
    return root


def test_several_splits_are_one_dataset(tmp_path):
    root = exported(tmp_path / "export", "train", "valid")
    one, other = (opened(root, split=split) for split in ("train", "valid"))
    both = opened(root, split="train, valid")
    assert list(both) == [*one, *other]
    assert {query.split for record in both for query in record.queries} == {"train", "valid"}
    assert [str(path) for path in both.listing] == [
        "train/_annotations.coco.json",
        "valid/_annotations.coco.json",
    ]
    limited = opened(root, split="train,valid", limit=1)
    assert list(limited) == [one[0], other[0]]
    with pytest.raises(ConfigError, match="names a split twice"):
        opened(root, split="train,train")
    with pytest.raises(DatasetError, match="splits found: train, valid"):
        opened(root, split="train,test")


def test_what_belongs_to_no_image_names_its_split(tmp_path):
    root = exported(tmp_path / "export", "train", "valid")
    path = root / "valid/_annotations.coco.json"
    document = json.loads(path.read_text())
    document["annotations"][0]["image_id"] = 999
    path.write_text(json.dumps(document))
    (rejected,) = opened(root, split="train,valid").rejected
    assert rejected.what.startswith("valid/_annotations.coco.json: annotation ")
