from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from lens_cache.config.data import DataConfig
from lens_cache.datasets.registry import open_dataset
from lens_cache.datasets.source import DataSource
from lens_cache.errors import ConfigError, DatasetError
from lens_cache.extraction.listing import listing
from lens_cache.images import masks
from lens_cache.plan.build import build_plan


def picture(path, *, width=12, height=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (len(path.stem) * 40 % 255, 9, 9)).save(path)


def mask(path, box=(2, 3, 6, 7), *, width=12, height=9):
    """Draw a box (left, top, right, bottom) in white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = np.zeros((height, width), np.uint8)
    left, top, right, bottom = box
    drawn[top:bottom, left:right] = 255
    Image.fromarray(drawn).save(path)


def opened(root, **settings):
    return open_dataset(DataConfig(kind="folder", root=root, **settings))


@pytest.fixture
def root(tmp_path):
    for name in ("a.jpg", "b.png", "unmasked.jpg"):
        picture(tmp_path / "images" / name)
    mask(tmp_path / "masks/red_cup/a.png")
    mask(tmp_path / "masks/red_cup/b.png", (0, 0, 3, 3))
    mask(tmp_path / "masks/What can hold tea?/a.png")
    return tmp_path


def test_folders_name_the_instructions(root):
    one, other = opened(root)
    assert (one.path, other.path) == (PurePosixPath("images/a.jpg"), PurePosixPath("images/b.png"))
    assert [(query.instruction, query.length) for query in one.queries] == [
        ("What can hold tea?", "long"),
        ("red cup", "short"),
    ]
    assert {query.split for query in one.queries} == {"train"}
    drawn = masks.decode(other.queries[0].target)
    assert drawn[:3, :3].all()
    assert drawn.sum() == 9
    assert len(opened(root, limit=1)) == 1


def test_masks_beside_each_other_have_the_instruction_of_the_settings(tmp_path):
    picture(tmp_path / "images/a.jpg")
    mask(tmp_path / "masks/a.png")
    (record,) = opened(tmp_path, instruction="the polyp")
    assert [query.instruction for query in record.queries] == ["the polyp"]
    with pytest.raises(ConfigError, match=r"masks/a.png is in no folder.*set data.instruction"):
        opened(tmp_path)


def test_splits_are_folders(tmp_path):
    for split in ("train", "valid"):
        picture(tmp_path / split / "images/a.jpg")
        mask(tmp_path / split / "masks/dog/a.png")
    both = opened(tmp_path)
    assert [record.queries[0].split for record in both] == ["train", "valid"]
    (record,) = opened(tmp_path, split="valid")
    assert record.path == PurePosixPath("valid/images/a.jpg")
    with pytest.raises(ConfigError, match="splits found: train, valid"):
        opened(tmp_path, split="test")


def test_what_does_not_fit_is_listed(root):
    mask(root / "masks/red_cup/nobody.png")
    picture(root / "images/a.png")
    mask(root / "masks/empty/a.png", (0, 0, 0, 0))
    dataset = opened(root)
    assert [(entry.what, entry.reason) for entry in dataset.rejected] == [
        ("image images/a.png", "a.jpg has the same name"),
        ("mask masks/red_cup/nobody.png", "no image in images has its name"),
    ]
    (entry,) = dataset[0].rejected
    assert entry.what == "mask masks/empty/a.png"
    mask(root / "masks/other size/b.png", width=13)
    plan = build_plan(DataConfig(kind="folder", root=root))
    assert plan.num_images == 2
    assert any("other size" in str(row) for row in plan.quarantine.to_pylist())


def test_folders_that_are_not_there(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DatasetError, match="expected the folders images and masks, or SPLIT"):
        opened(tmp_path)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DatasetError, match="has no image with a usable annotation"):
        opened(tmp_path)


def test_a_new_instruction_or_mask_makes_it_another_dataset(root):
    config = DataConfig(kind="folder", root=root)
    before = listing(DataSource(config))
    mask(root / "masks/spoon/a.png")
    assert listing(DataSource(config))["masks"] != before["masks"]
    mask(root / "masks/red_cup/unmasked.png")
    name = "masks/red_cup/*.png"
    assert listing(DataSource(config))[name] != before[name]
