import io
import json
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lens_cache.config.data import ColumnsConfig, DataConfig
from lens_cache.datasets.registry import open_dataset
from lens_cache.datasets.source import in_threads
from lens_cache.errors import ConfigError, DatasetError, ImageError
from lens_cache.extraction.image_reader import PictureReader
from lens_cache.extraction.stage_times import StageTimes
from lens_cache.images import masks
from lens_cache.images import tables as table_files
from lens_cache.images.decode import content_id, read_image
from lens_cache.images.files import read_image_file, row_path
from lens_cache.images.geometry import image_to_square
from lens_cache.plan.build import build_plan
from pipelines.evaluation.panels import read_photo
from tests.support.pictures import (
    box_mask,
    box_polygon,
    colours,
    encoded,
    rotated,
    runs,
    write_image,
)

BOX = box_mask(1, 1, 4, 4)
PNG = encoded(np.where(BOX, 255, 0).astype(np.uint8))


def picture(seed=0):
    return {"bytes": encoded(colours(seed=seed)), "path": f"{seed}.png"}


def row(seed=0, **more):
    return {"image": picture(seed), "text": f"thing {seed}", "mask": BOX.tolist(), **more}


def parquet(root, rows, name="data/train-00000-of-00001.parquet", **options):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def saved(folder, parts, split="train"):
    """Write what ``Dataset.save_to_disk`` writes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"data-{n:05d}-of-{len(parts):05d}.arrow" for n in range(len(parts))]
    for name, rows in zip(names, parts, strict=True):
        table = pa.Table.from_pylist(rows)
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table, max_chunksize=2)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0123456789abcdef",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def config(root, **settings):
    columns = ColumnsConfig(**settings.pop("columns", {}))
    return DataConfig(kind="huggingface", root=root, columns=columns, **settings)


def texts(dataset):
    return [query.instruction for record in dataset for query in record.queries]


def test_a_folder_of_parquet_files(tmp_path):
    parquet(tmp_path, [row(0), row(1), row(2)], "data/train-00000-of-00002.parquet")
    parquet(tmp_path, [row(3)], "data/train-00001-of-00002-0a1b.parquet")
    parquet(tmp_path, [row(4)], "data/test-00000-of-00001.parquet")
    dataset = open_dataset(config(tmp_path, split="train"))
    assert texts(dataset) == ["thing 0", "thing 1", "thing 2", "thing 3"]
    for seed, record in enumerate(dataset):
        (query,) = record.queries
        assert (record.dataset, query.split, query.kind) == ("huggingface", "train", "referring")
        np.testing.assert_array_equal(masks.decode(query.target), BOX)
        assert read_image_file(tmp_path, record.path) == picture(seed)["bytes"]
    last = PurePosixPath("data/train-00001-of-00002-0a1b.parquet#0.image")
    assert dataset[3].path == last == row_path(PurePosixPath(str(last)[:-8]), 0, "image")
    assert texts(open_dataset(config(tmp_path, limit=2))) == ["thing 4", "thing 0"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/testA-00000-of-00001.parquet", "testA"),
        ("data/validation-00000-of-00003-0123456789abcdef.parquet", "validation"),
        ("val.parquet", "val"),
        ("test/part.parquet", "test"),
        ("anything.parquet", "train"),
        ("data/data-00000-of-00001.parquet", "train"),
    ],
)
def test_the_file_says_the_split(tmp_path, name, split):
    parquet(tmp_path, [row()], name)
    (record,) = open_dataset(config(tmp_path))
    assert record.queries[0].split == split


def test_a_dataset_saved_to_disk(tmp_path):
    saved(tmp_path, [[row(0), row(1), row(2)], [row(3)]])
    (tmp_path / "cache-0123.arrow").write_bytes(b"left behind")
    dataset = open_dataset(config(tmp_path))
    assert texts(dataset) == ["thing 0", "thing 1", "thing 2", "thing 3"]
    assert dataset[2].path == PurePosixPath("data-00000-of-00002.arrow#2.image")
    assert read_image_file(tmp_path, dataset[2].path) == picture(2)["bytes"]
    assert {record.queries[0].split for record in dataset} == {"train"}


def test_a_dataset_dict_saved_to_disk(tmp_path):
    saved(tmp_path / "train", [[row(0)]])
    saved(tmp_path / "test", [[row(1)]], split=None)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert texts(open_dataset(config(tmp_path, split="train"))) == ["thing 0"]
    assert texts(open_dataset(config(tmp_path, split="test"))) == ["thing 1"]


def test_forms_of_a_mask(tmp_path):
    rle = masks.encode(BOX)
    forms = {
        "booleans": BOX.tolist(),
        "numbers": (BOX * 255).tolist(),
        "png": {"bytes": PNG, "path": None},
        "bytes": PNG,
        "file": {"bytes": None, "path": "m.png"},
        "path": "m.png",
        "rle": dict(rle),
        "rle as bytes": {"size": rle["size"], "counts": rle["counts"].encode()},
        "runs": {"size": [8, 12], "counts": runs(BOX)},
        "polygons": [[float(n) for n in box_polygon(1, 1, 4, 4)]],
        "polygon": [float(n) for n in box_polygon(1, 1, 4, 4)],
        "several files": [{"bytes": PNG, "path": None}, {"bytes": PNG, "path": None}],
    }
    (tmp_path / "m.png").write_bytes(PNG)
    for number, (name, form) in enumerate(forms.items()):
        folder = tmp_path / str(number)
        parquet(folder, [row(mask=form, ignore=form)])
        (folder / "m.png").write_bytes(PNG)
        (record,) = open_dataset(config(folder))
        assert record.rejected == (), name
        np.testing.assert_array_equal(masks.decode(record.queries[0].target), BOX, name)
        assert record.queries[0].ignore == record.queries[0].target


def test_parts_of_a_mask_are_united(tmp_path):
    one, two = box_mask(0, 0, 6, 6), box_mask(3, 3, 10, 8)
    parquet(tmp_path, [row(mask=[dict(masks.encode(one)), dict(masks.encode(two))])])
    (record,) = open_dataset(config(tmp_path))
    np.testing.assert_array_equal(masks.decode(record.queries[0].target), one | two)


def test_masks_live_in_the_turned_image(tmp_path):
    image = {"bytes": rotated(colours(), 6), "path": None}
    parquet(tmp_path, [row(image=image, mask=box_mask(1, 1, 4, 4, width=8, height=12).tolist())])
    (record,) = open_dataset(config(tmp_path))
    assert record.queries[0].target["size"] == [12, 8]


def test_several_texts_and_the_other_columns(tmp_path):
    rows = [
        row(0, text=["a", " b ", "a"], is_sentence=True, kind="reasoning", topic="size"),
        row(1, text=["the red thing"], is_sentence=False, kind=None, topic=None),
    ]
    rows[0]["split"], rows[1]["split"] = "val", "test"
    parquet(tmp_path, rows)
    first, second = open_dataset(config(tmp_path))
    assert [q.instruction for q in first.queries] == ["a", "b", "a"]
    assert [q.repeat for q in first.queries] == [0, 0, 1]
    query = first.queries[0]
    assert (query.length, query.kind, query.topic) == ("long", "reasoning", "size")
    assert (query.split, second.queries[0].split) == ("val", "test")
    query = second.queries[0]
    assert (query.length, query.kind, query.topic) == ("short", "referring", "")
    assert texts(open_dataset(config(tmp_path, split="test"))) == ["the red thing"]


def test_columns_are_named_by_the_settings(tmp_path):
    entry = row()
    entry = {"photo": entry["image"], "answer": ["it"], "seg": entry["mask"], "text": 3}
    parquet(tmp_path, [entry])
    with pytest.raises(ConfigError) as error:
        open_dataset(config(tmp_path))
    assert "found photo, answer, seg, text" in str(error.value)
    assert "--set data.columns.image=NAME" in str(error.value)
    columns = {"image": "photo", "text": "answer", "mask": "seg"}
    dataset = open_dataset(config(tmp_path, columns=columns))
    assert texts(dataset) == ["it"]
    assert str(dataset[0].path).endswith("#0.photo")
    with pytest.raises(ConfigError, match="expected a column nowhere"):
        open_dataset(config(tmp_path, columns={**columns, "topic": "nowhere"}))


def test_pictures_that_lie_beside_the_table(tmp_path):
    write_image(tmp_path / "pictures" / "a.png")
    rows = [
        row(image={"bytes": None, "path": "pictures/a.png"}),
        row(image={"bytes": None, "path": "/etc/hostname"}),
        row(image={"bytes": None, "path": "gone.png"}),
    ]
    parquet(tmp_path, rows)
    good, outside, gone = open_dataset(config(tmp_path))
    assert good.path == PurePosixPath("pictures/a.png")
    assert texts([good]) == ["thing 0"]
    assert "leads outside the root" in outside.rejected[0].reason
    assert gone.rejected[0].reason == "No such file or directory"


def test_bad_rows_are_named_and_the_others_stand(tmp_path):
    bad = {
        "expected a text": row(1, text=" "),
        "the mask has no foreground": row(2, mask=np.zeros((8, 12), bool).tolist()),
        "expected a 2-D list of 8 rows with 12 values each": row(3, mask=[[True, False]] * 3),
        "not an image": row(4, image={"bytes": b"text", "path": None}),
        "expected a path": row(5, image={"bytes": None, "path": None}),
        "column 'mask': expected an image file": row(6, mask=None),
        "column 'kind' must be one of": row(7, kind="thing"),
    }
    path = parquet(tmp_path, [row(0, kind=None), *bad.values(), row(8)])
    plan = build_plan(config(tmp_path))
    assert plan.num_images == 2
    rows = plan.quarantine.to_pylist()
    assert len(rows) == len(bad)
    name = path.relative_to(tmp_path).as_posix()
    for number, (reason, found) in enumerate(zip(bad, rows, strict=True), start=1):
        assert found["path"] == f"{name}#{number}.image"
        assert found["what"] == f"row {number}"
        assert reason in found["reason"]
        assert "\n" not in found["reason"]


def test_a_plan_of_rows_has_their_bytes(tmp_path):
    parquet(tmp_path, [row(n % 3) for n in range(7)], row_group_size=2)
    plan = build_plan(config(tmp_path), mapper=in_threads(4))
    assert plan.num_images == 3
    for index in range(3):
        planned = plan.image(index)
        data = read_image_file(tmp_path, planned.path)
        assert content_id(data) == planned.image_id
        np.testing.assert_array_equal(read_image(data), colours(seed=index))
    assert [len(plan.image(n).paths) for n in range(3)] == [3, 2, 2]
    assert build_plan(config(tmp_path), mapper=in_threads(1)).digest() == plan.digest()


def test_a_row_group_is_read_once_not_once_a_row(tmp_path, monkeypatch):
    parquet(tmp_path, [row(n) for n in range(12)], row_group_size=6)
    reads = []
    original = table_files.TableFile._read
    monkeypatch.setattr(
        table_files.TableFile,
        "_read",
        lambda self, group, column: (reads.append((group, column)), original(self, group, column))[
            1
        ],
    )
    build_plan(config(tmp_path), mapper=in_threads(3))
    assert sorted(reads) == sorted(
        (group, column) for group in (0, 1) for column in ("image", "mask", "text")
    )


def test_a_table_that_changed_is_read_anew(tmp_path):
    path = parquet(tmp_path, [row(0)])
    place = row_path(PurePosixPath(path.relative_to(tmp_path).as_posix()), 0, "image")
    assert read_image_file(tmp_path, place) == picture(0)["bytes"]
    parquet(tmp_path, [row(1), row(2), row(3)])
    assert read_image_file(tmp_path, place) == picture(1)["bytes"]


def test_paths_that_lead_nowhere(tmp_path):
    path = parquet(tmp_path, [row(0)])
    name = path.relative_to(tmp_path).as_posix()
    for place, reason in ((f"{name}#7.image", "no row 7"), (f"{name}#0.text", "has no picture")):
        with pytest.raises(ImageError, match=reason):
            read_image_file(tmp_path, PurePosixPath(place))
    with pytest.raises(FileNotFoundError):
        read_image_file(tmp_path, PurePosixPath("gone.parquet#0.image"))
    (tmp_path / "a#1.png").write_bytes(PNG)  # an image like any other
    assert read_image_file(tmp_path, PurePosixPath("a#1.png")) == PNG


def test_folders_that_cannot_be_read_end_in_one_line(tmp_path):
    with pytest.raises(DatasetError, match=r"expected \*.parquet files"):
        open_dataset(config(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match="not a readable parquet file"):
        open_dataset(config(tmp_path))
    (tmp_path / "a.parquet").unlink()
    saved(tmp_path, [[row()]])
    for state, words in (
        ("[]", "expected a file written by save_to_disk"),
        ('{"_data_files": [{"filename": "../x.arrow"}]}', "is outside its folder"),
        ('{"_data_files": [{"filename": "x.arrow"}]}', "No such file"),
        ('{"_data_files": [], "_indices_data_files": [1]}', r"flatten_indices\(\)"),
    ):
        (tmp_path / "state.json").write_text(state)
        with pytest.raises(DatasetError, match=words):
            open_dataset(config(tmp_path))
    saved(tmp_path, [[row()]])
    with pytest.raises(ConfigError, match="no row of split 'val'; splits found: train"):
        open_dataset(config(tmp_path, split="val"))


def test_a_row_group_that_does_not_fit_in_memory_is_refused(tmp_path, monkeypatch):
    parquet(tmp_path, [row(0)])
    monkeypatch.setattr(table_files, "MAX_GROUP_BYTES", 100)
    (record,) = open_dataset(config(tmp_path))
    assert "row_group_size=100" in record.rejected[0].reason


def test_an_arrow_file_is_as_good_as_a_stream(tmp_path):
    table = pa.Table.from_pylist([row(0)])
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "train.arrow").write_bytes(sink.getvalue())
    assert texts(open_dataset(config(tmp_path))) == ["thing 0"]


def test_extraction_and_pages_read_pictures_out_of_rows(tmp_path):
    path = parquet(tmp_path, [row(0), row(1)])
    plan = build_plan(config(tmp_path))
    reader = PictureReader(plan, tmp_path, side=16, pixels=None, threads=1, times=StageTimes())
    for seed, found in enumerate(reader.read([0, 1], (), ahead=2)):
        assert not isinstance(found.picture, ImageError)
        np.testing.assert_array_equal(found.picture.square, image_to_square(colours(seed=seed), 16))
        photo = read_photo(tmp_path, str(found.planned.path))
        np.testing.assert_array_equal(photo, colours(seed=seed))
    parquet(tmp_path, [row(2), row(3)], path.name)
    path.unlink()
    assert read_photo(tmp_path, str(plan.image(0).path)) is None
    (gone,) = reader.read([0], (), ahead=1)
    assert str(gone.picture) == "cannot be read: No such file or directory"
