"""The files whose change makes a plan another one, by kind of data."""

from pathlib import PurePosixPath

from lens_cache.config.data import DataConfig
from lens_cache.datasets.source import DataSource
from lens_cache.extraction.listing import listing
from tests.support.data import own_data, photos
from tests.support.pictures import write_coco


def test_a_coco_folder_is_listed_by_its_annotations(tmp_path):
    root = write_coco(tmp_path / "coco", num_images=2)
    found = listing(DataSource(DataConfig(root=root, split="train2017")))
    name, masks = found
    assert PurePosixPath(name) == PurePosixPath("annotations/panoptic_train2017.json")
    assert found[name][0] == (root / name).stat().st_size
    assert masks == "annotations/panoptic_train2017/*.png"
    assert found[masks][0] == 2
    instances = DataConfig(root=root, split="train2017", annotations="instances")
    assert list(listing(DataSource(instances))) == ["annotations/instances_train2017.json"]


def test_lines_of_equal_length_are_told_apart_by_their_checksum(tmp_path):
    data = own_data(tmp_path / "data", photos(2))
    before = listing(DataSource(data))
    path = data.root / "data.jsonl"
    path.write_text(path.read_text().replace("the box", "the bax"))
    after = listing(DataSource(data))
    assert before.keys() == after.keys() == {"data.jsonl"}
    assert before["data.jsonl"][0] == after["data.jsonl"][0]
    assert before != after
