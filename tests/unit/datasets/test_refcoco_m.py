"""RefCOCO-M's Parquet files: several things in an image, several sentences about each."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lens_cache.config.data import DataConfig
from lens_cache.datasets.registry import open_dataset
from lens_cache.errors import ConfigError
from lens_cache.images import masks
from lens_cache.plan.build import build_plan
from tests.support.pictures import box_mask, write_image

SAMPLES = pa.list_(
    pa.struct(
        [
            ("id", pa.int64()),
            ("category", pa.string()),
            ("sentences", pa.list_(pa.string())),
            ("bbox", pa.list_(pa.float32())),
            ("mask", pa.struct([("counts", pa.string()), ("size", pa.list_(pa.int32()))])),
        ]
    )
)
LEFT, RIGHT = box_mask(1, 1, 4, 4), box_mask(6, 2, 11, 7)


def sample(number, mask, *sentences):
    rle = masks.encode(mask)
    return {
        "id": number,
        "category": "person",
        "sentences": list(sentences),
        "bbox": [0, 0, 1, 1],
        "mask": {"counts": rle["counts"], "size": rle["size"]},
    }


def write(root, rows, name="validation-00000-of-00001.parquet"):
    """Write images of 12 x 8 pixels with their samples."""
    (root / "data").mkdir(parents=True, exist_ok=True)
    images = []
    for number, _ in enumerate(rows):
        path = write_image(root / f"{number}.png", seed=number) or root / f"{number}.png"
        images.append({"bytes": path.read_bytes(), "path": None})
        path.unlink()
    table = pa.table(
        {
            "image": images,
            "image_id": list(range(len(rows))),
            "file_name": [f"COCO_train2014_{number:012d}.jpg" for number in range(len(rows))],
            "samples": pa.array(rows, SAMPLES),
        }
    )
    pq.write_table(table, root / "data" / name)
    return DataConfig(kind="refcoco_m", root=root)


def test_every_sentence_about_every_thing_is_a_query(tmp_path):
    rows = [
        [sample(1, LEFT, " The Left MAN", "man"), sample(2, RIGHT, "man on the right")],
        [sample(3, RIGHT, "cow", "cow")],
    ]
    first, second = open_dataset(write(tmp_path, rows))
    assert [query.instruction for query in first.queries] == [
        "the left man",
        "man",
        "man on the right",
    ]
    for query, mask in zip(first.queries, (LEFT, LEFT, RIGHT), strict=True):
        np.testing.assert_array_equal(masks.decode(query.target), mask)
    assert [query.repeat for query in second.queries] == [0, 1]
    plan = build_plan(write(tmp_path, rows))
    assert plan.splits() == {"validation": 5}
    assert plan.num_images == 2


def test_a_sample_that_is_not_usable_is_named(tmp_path):
    broken = sample(2, RIGHT, "right")
    broken["mask"]["counts"] = "~"
    rows = [
        [
            sample(1, LEFT, "left"),
            broken,
            sample(3, np.zeros((8, 12), dtype=bool), "nothing"),
            sample(4, LEFT),
        ]
    ]
    (record,) = open_dataset(write(tmp_path, rows))
    assert [query.instruction for query in record.queries] == ["left"]
    assert [one.what for one in record.rejected] == [f"row 0, sample {n}" for n in (1, 2, 3)]


def test_a_mask_of_another_size_is_not_planned(tmp_path):
    rows = [[sample(1, LEFT, "left"), sample(2, np.ones((3, 3), dtype=bool), "other")]]
    plan = build_plan(write(tmp_path, rows))
    assert plan.num_queries == 1
    assert plan.quarantine.num_rows == 1


def test_other_tables_and_splits_are_refused(tmp_path):
    config = write(tmp_path, [[sample(1, LEFT, "left")]])
    with pytest.raises(ConfigError, match="no table of split 'test'; splits found: validation"):
        open_dataset(DataConfig(kind="refcoco_m", root=tmp_path, split="test"))
    table = pq.read_table(tmp_path / "data/validation-00000-of-00001.parquet")
    pq.write_table(table.drop(["samples"]), tmp_path / "data/validation-00000-of-00001.parquet")
    with pytest.raises(ConfigError, match="found no samples"):
        open_dataset(config)
