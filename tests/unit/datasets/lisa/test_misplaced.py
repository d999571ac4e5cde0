"""What people do to real folders: each slip is one line with its mending."""

import shutil

import pytest
from PIL import Image

from lens_cache.config.data import DataConfig, LisaConfig
from lens_cache.datasets.registry import open_dataset
from lens_cache.errors import DatasetError
from lens_cache.plan.build import build_plan
from tests.support.lisa_world import write_world

REFS = "refer_seg/refcoco/refs(unc).p"
INSTANCES = "refer_seg/refcoco/instances.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("lisa") / "of all")


@pytest.fixture
def world(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "mes données" / "lisa")


def config(root, *sets):
    return DataConfig(kind="lisa", root=root, lisa=LisaConfig(sets=sets))


def refused(root, *sets):
    """Return the message of a dataset that cannot be opened, which is one line."""
    with pytest.raises(DatasetError) as caught:
        open_dataset(config(root, *sets))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "name"),
    [("refer_seg", "refcoco"), ("reason_seg/ReasonSeg", "reason_seg"), ("ade20k", "ade20k")],
)
def test_a_root_that_is_an_inner_folder(world, given, name):
    assert f"LISA's folder seems to be {world}: use it as the root" in refused(world / given, name)


def test_a_root_that_is_the_folder_above(world):
    assert f"LISA's folder seems to be {world}: use it" in refused(world.parent, "mapillary")


def test_capital_letters(world):
    (world / "ade20k").rename(world / "ADE20K")
    message = refused(world, "ade20k")
    assert "ADE20K/images/training exists: rename it, names are case-sensitive" in message


def test_a_link_that_leads_nowhere(world):
    (world / "ade20k").rename(world / "elsewhere")
    (world / "ade20k").symlink_to(world / "elsewhere")
    assert len(open_dataset(config(world, "ade20k"))) == 1
    (world / "elsewhere").rename(world / "moved")
    message = refused(world, "ade20k")
    assert f"ade20k is a link to {world / 'elsewhere'}, which does not exist" in message


@pytest.mark.parametrize("path", [REFS, INSTANCES])
@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"\n<!DOCTYPE html><html>404</html>", "it is a web page, not the file"),
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "it is a Git LFS pointer"),
    ],
)
def test_a_failed_download_is_named(world, path, data, found):
    (world / path).write_bytes(data)
    message = refused(world, "refcoco")
    assert message.startswith(f"reading {world / path}: {found}")
    assert message.endswith("; download the file again")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (REFS, "refcoco"),
        (INSTANCES, "refcoco"),
        ("vlpart/paco/annotations/paco_lvis_v1_train.json", "paco_lvis"),
        ("vlpart/pascal_part/train.json", "pascal_part"),
    ],
)
def test_a_file_that_was_cut(world, path, name):
    data = (world / path).read_bytes()
    (world / path).write_bytes(data[: len(data) // 2])
    message = refused(world, name)
    assert message.startswith(f"reading {world / path}: not ")
    assert message.endswith("; download the file again")


def test_images_in_other_colour_modes(world):
    ade, coco = "ade20k/images/training/ADE_train_00000001.jpg", "coco/train2017/000000000009.jpg"
    for path, mode in ((ade, "L"), (coco, "CMYK")):
        Image.open(world / path).convert(mode).save(world / path, "JPEG")
    deep = world / "coco/train2017/000000000003.jpg"
    Image.new("I;16", Image.open(deep).size, 40000).save(deep, "PNG")
    plan = build_plan(config(world, "ade20k", "cocostuff"))
    assert (plan.num_images, plan.quarantine.num_rows) == (3, 0)


def test_no_set_is_there(tmp_path):
    config = DataConfig(kind="lisa", root=tmp_path, lisa=LisaConfig(missing="skip"))
    with pytest.raises(DatasetError, match=r"none of its sets was found; run `lens-cache"):
        open_dataset(config)
