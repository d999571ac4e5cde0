import dataclasses
import json
import shutil
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.config.data import DataConfig
from lens_cache.datasets.registry import open_dataset
from lens_cache.datasets.source import in_threads
from lens_cache.errors import ConfigError, DatasetError, StoreError
from lens_cache.images import masks
from lens_cache.images.decode import content_id
from lens_cache.plan.build import build_plan
from lens_cache.plan.plan import Plan
from lens_cache.plan.schema import IMAGES, QUARANTINE, QUERIES
from tests.support.pictures import box_mask, box_polygon, colours, edit_json, rotated, write_coco
from tests.support.pictures import write_image as write

BOX = {"polygons": [box_polygon(1, 1, 4, 4)]}


@pytest.fixture
def coco(tmp_path):
    return DataConfig(root=write_coco(tmp_path / "coco", num_images=6), split="train2017")


def jsonl(root, lines, **settings):
    (root / "data.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return DataConfig(kind="jsonl", root=root, **settings)


def line(image, instruction="the box", mask=BOX, **more):
    return {"image": image, "instruction": instruction, "mask": mask, **more}


def quarantine(plan):
    return [tuple(row.values()) for row in plan.quarantine.to_pylist()]


def test_plan_says_what_the_dataset_says(coco):
    plan = build_plan(coco)
    records = list(open_dataset(coco))
    assert plan.num_images == len(records) == 6
    assert plan.num_queries == sum(len(record.queries) for record in records)
    assert quarantine(plan) == []
    for index, record in enumerate(records):
        image = plan.image(index)
        assert image.image_id == content_id((coco.root / record.path).read_bytes())
        assert (image.index, image.path, image.paths) == (index, record.path, (record.path,))
        assert (image.width, image.height, image.datasets) == (12, 8, ("coco",))
        queries = plan.queries_of(index)
        assert [q.instruction for q in queries] == [q.instruction for q in record.queries]
        for planned, query in zip(queries, record.queries, strict=True):
            assert planned.question == f"What is {query.instruction} in this image?"
            assert (planned.target(), planned.ignore()) == (query.target, query.ignore)
            assert (planned.image_index, planned.image_id) == (index, image.image_id)
            assert (planned.kind, planned.length, planned.dataset) == ("class", "short", "coco")
            assert (planned.split, planned.size, planned.topic) == ("train2017", (8, 12), "")
            assert masks.decode(planned.target()).shape == (8, 12)


def test_schemas_are_explicit(coco):
    plan = build_plan(coco)
    assert plan.images.schema == IMAGES
    assert plan.queries.schema == QUERIES
    assert plan.quarantine.schema == QUARANTINE


def test_query_ids_are_distinct(coco):
    ids = build_plan(coco).queries["query_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert {len(number) for number in ids} == {16}


def test_threads_and_repetition_change_nothing(coco):
    plans = [build_plan(coco, mapper=in_threads(threads)) for threads in (1, 2, 7)]
    assert len({plan.digest() for plan in plans}) == 1
    assert plans[0].to_files() == plans[1].to_files() == plans[2].to_files()


def test_the_place_of_the_dataset_does_not_matter(coco, tmp_path):
    moved = shutil.copytree(coco.root, tmp_path / "elsewhere")
    (moved / "train2017/0001.png").unlink()
    (coco.root / "train2017/0001.png").unlink()
    plans = [build_plan(coco), build_plan(dataclasses.replace(coco, root=moved))]
    assert plans[0].digest() == plans[1].digest()
    assert plans[0].quarantine.num_rows == 1


def test_digest_sees_every_table_and_null(coco):
    plan = build_plan(coco)
    row = {"path": "a", "what": "b", "reason": "c"}
    other = dataclasses.replace(plan, quarantine=pa.Table.from_pylist([row], schema=QUARANTINE))
    rows = plan.queries.to_pylist()
    rows[0]["ignore"] = None
    no_ignore = dataclasses.replace(plan, queries=pa.Table.from_pylist(rows, schema=QUERIES))
    rows[0]["ignore"] = ""
    empty = dataclasses.replace(plan, queries=pa.Table.from_pylist(rows, schema=QUERIES))
    reordered = dataclasses.replace(plan, images=plan.images.take([1, 0, 2, 3, 4, 5]))
    plans = [plan, other, no_ignore, empty, reordered]
    assert len({each.digest() for each in plans}) == 5


def test_digest_does_not_depend_on_chunks(coco):
    plan = build_plan(coco)
    parts = pa.concat_tables([plan.queries.slice(0, 3), plan.queries.slice(3)])
    assert parts["split"].num_chunks == 2
    assert dataclasses.replace(plan, queries=parts).digest() == plan.digest()


def test_questions_are_part_of_the_plan(coco):
    changed = dataclasses.replace(coco, short_question="Where is {instruction}?")
    plans = build_plan(coco), build_plan(changed)
    assert plans[1].queries_of(0)[0].question == "Where is dog?"
    assert plans[0].digest() != plans[1].digest()
    ids = [set(plan.queries["query_id"].to_pylist()) for plan in plans]
    assert not ids[0] & ids[1]


def test_template_without_instruction_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match=r"data.long_question must contain"):
        build_plan(DataConfig(root=Path("nowhere"), split="x", long_question="Find it."))


def test_same_picture_under_two_paths_is_one_image(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "other.png", seed=5)
    shutil.copy(tmp_path / "a.png", tmp_path / "copy.png")
    lines = [line("a.png"), line("other.png"), line("copy.png"), line("copy.png", "it")]
    lines += [line("copy.png", split="val"), line("a.png")]
    plan = build_plan(jsonl(tmp_path, lines))
    assert plan.num_images == 2
    image = plan.image(0)
    assert image.path == PurePosixPath("a.png")
    assert image.paths == (PurePosixPath("a.png"), PurePosixPath("copy.png"))
    found = [(query.instruction, query.split) for query in plan.queries_of(0)]
    assert found == [("the box", "train"), ("it", "train"), ("the box", "val")]
    assert plan.queries["image_index"].to_pylist() == [0, 0, 0, 1]


def test_equal_words_with_other_masks_are_two_queries(tmp_path):
    write(tmp_path / "a.png")
    other = {"polygons": [box_polygon(5, 5, 8, 8)]}
    lines = [line("a.png"), line("a.png", mask=other), line("a.png", ignore=other)]
    assert build_plan(jsonl(tmp_path, lines)).num_queries == 3


def test_images_that_cannot_be_read_are_quarantined(tmp_path):
    write(tmp_path / "good.png")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    mask = {"rle": {"size": [8, 12], "counts": [0, 96]}}
    names = ["gone.png", "good.png", "text.png", "empty.png", "folder.png", "gone.png"]
    words = ["a", "b", "c", "d", "e", "f"]
    lines = [line(name, word, mask) for name, word in zip(names, words, strict=True)]
    plan = build_plan(jsonl(tmp_path, lines))
    assert [plan.image(i).path.name for i in range(plan.num_images)] == ["good.png"]
    known = "not an image of a known format (JPEG, PNG, WEBP, GIF, BMP, TIFF)"
    assert quarantine(plan) == [
        ("gone.png", "image with 2 queries", "No such file or directory"),
        ("text.png", "image with 1 query", known),
        ("empty.png", "image with 1 query", "the file is empty"),
        ("folder.png", "image with 1 query", "Is a directory"),
    ]


def test_masks_of_another_size_are_quarantined(tmp_path):
    (tmp_path / "turned.png").write_bytes(rotated(colours(), 6))
    flat = {"rle": {"size": [8, 12], "counts": [0, 96]}}
    lines = [line("turned.png", "flat", flat), line("turned.png")]
    plan = build_plan(jsonl(tmp_path, lines))
    assert [query.instruction for query in plan.queries_of(0)] == ["the box"]
    assert (plan.image(0).width, plan.image(0).height) == (8, 12)
    reason = "the mask is 12 x 8 pixels, the image 8 x 12"
    assert quarantine(plan) == [("turned.png", "query 'flat'", reason)]


def test_an_image_without_a_usable_query_is_not_in_the_plan(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png", seed=1)
    small = {"rle": {"size": [1, 1], "counts": [0, 1]}}
    plan = build_plan(jsonl(tmp_path, [line("a.png", mask=small), line("b.png")]))
    assert [plan.image(i).path.name for i in range(plan.num_images)] == ["b.png"]
    assert plan.select() == [0]


def test_rejected_entries_reach_the_quarantine(tmp_path):
    write(tmp_path / "a.png")
    lines = [line("a.png"), {"image": 3}, line("a.png", mask={"polygons": [[1, 2]]})]
    plan = build_plan(jsonl(tmp_path, lines))
    assert quarantine(plan) == [
        ("data.jsonl", "line 2", "the key 'instruction' is missing"),
        ("a.png", "line 3", "'mask': a polygon needs at least 3 points, got 2 values"),
    ]


def test_every_image_missing(coco):
    shutil.rmtree(coco.root / "train2017")
    message = (
        r"none of 6 images can be read; the first is train2017/0000.png: No such file or directory$"
    )
    with pytest.raises(DatasetError, match=message):
        build_plan(coco)


def test_nothing_usable_left(tmp_path):
    write(tmp_path / "a.png")
    small = {"rle": {"size": [1, 1], "counts": [0, 1]}}
    message = (
        r"no usable query in 1 images \(1 entries rejected\); the first is a.png, "
        r"query 'the box': the mask is 1 x 1 pixels, the image 12 x 8$"
    )
    with pytest.raises(DatasetError, match=message):
        build_plan(jsonl(tmp_path, [line("a.png", mask=small)]))


def test_progress_counts_to_the_end(coco):
    calls = []
    build_plan(coco, progress=lambda *call: calls.append(call))
    assert calls == [("plan", 6, 6)]


def test_an_error_in_progress_stops_the_threads(coco):
    def interrupt(what, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(coco, progress=interrupt)


def test_save_and_load(coco, tmp_path):
    plan = build_plan(coco)
    plan.save(tmp_path / "plan")
    loaded = Plan.load(str(tmp_path / "plan"))
    assert loaded.digest() == plan.digest()
    assert loaded.queries_of(3) == plan.queries_of(3)
    assert loaded.image(3) == plan.image(3)
    plan.save(tmp_path / "again")
    loaded.save(tmp_path / "again")
    names = ["images.parquet", "quarantine.parquet", "queries.parquet"]
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    for name in names:
        assert (tmp_path / "plan" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_load_of_what_is_not_a_plan(coco, tmp_path):
    with pytest.raises(StoreError, match=r"it does not exist; make it with `lens-cache plan`"):
        Plan.load(tmp_path / "plan")
    plan = build_plan(coco)
    plan.save(tmp_path / "plan")
    path = tmp_path / "plan/images.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=r"plan/images: not a readable Parquet file; plan again"):
        Plan.load(tmp_path / "plan")
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(StoreError, match=r"plan/images: not the columns of a plan; plan again"):
        Plan.load(tmp_path / "plan")


@pytest.mark.parametrize("order", [[0, 1], [1, 0, 2, 3, 4, 5]])
def test_load_of_tables_of_two_plans(coco, order):
    plan = build_plan(coco)
    files = dataclasses.replace(plan, images=plan.images.take(order)).to_files()
    with pytest.raises(StoreError, match=r"its tables do not belong together; plan again"):
        Plan.from_files(files)
    del files["images.parquet"]
    with pytest.raises(StoreError, match=r"reading the plan/images: it does not exist"):
        Plan.from_files(files)


def test_save_where_nothing_can_be_written(coco, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"writing the plan to .*file/plan: Not a directory"):
        build_plan(coco).save(tmp_path / "file/plan")


def test_images_and_queries_beyond_the_end(coco):
    plan = build_plan(coco)
    for index in (-1, 6):
        with pytest.raises(IndexError, match=f"image {index} of a plan with 6 images"):
            plan.image(index)
        with pytest.raises(IndexError, match=f"image {index} of a plan with 6 images"):
            plan.queries_of(index)


def test_splits_and_select(tmp_path):
    splits = [["val"], ["train", "val"], ["test"], ["train"]]
    for i in range(4):
        write(tmp_path / f"{i}.png", seed=i)
    lines = [line(f"{i}.png", split=split) for i in range(4) for split in splits[i]]
    plan = build_plan(jsonl(tmp_path, lines))
    assert plan.splits() == {"test": 1, "train": 2, "val": 2}
    assert list(plan.splits()) == ["test", "train", "val"]
    assert plan.select() == plan.select(None) == [0, 1, 2, 3]
    assert plan.select("val") == [0, 1]
    assert plan.select("train", 1) == [1]
    assert plan.select(limit_images=3) == [0, 1, 2]
    assert plan.select("nope") == []


def test_rejected_annotations_of_coco_reach_the_plan(coco):
    path = coco.root / "annotations/instances_train2017.json"
    edit_json(path, lambda document: document["annotations"][0].update(category_id=5))
    plan = build_plan(dataclasses.replace(coco, annotations="instances"))
    assert quarantine(plan) == [("train2017/0000.png", "annotation 10", "unknown category id 5")]
    person = plan.queries_of(0)[1]
    np.testing.assert_array_equal(masks.decode(person.target()), box_mask(5, 1, 8, 6))


@settings(max_examples=25, deadline=None)
@given(
    lines=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from("ab"), st.sampled_from(["train", "val"])),
        min_size=1,
        max_size=12,
    )
)
def test_dedupe_keeps_every_distinct_query_once(tmp_path_factory, lines):
    root = tmp_path_factory.mktemp("data")
    for i in range(5):
        write(root / f"{i}.png", seed=i % 3)  # 3 and 4 are copies of 0 and 1
    plan = build_plan(jsonl(root, [line(f"{i}.png", text, split=s) for i, text, s in lines]))
    files = list(dict.fromkeys(i for i, _, _ in lines))
    pictures = list(dict.fromkeys(i % 3 for i in files))
    assert plan.num_images == len(pictures)
    for index, picture in enumerate(pictures):
        copies = [f"{i}.png" for i in files if i % 3 == picture]
        assert [path.name for path in plan.image(index).paths] == copies
        wanted = {(text, s) for i, text, s in lines if i % 3 == picture}
        found = [(query.instruction, query.split) for query in plan.queries_of(index)]
        assert sorted(found) == sorted(wanted)
    assert plan.query_offsets[-1] == plan.num_queries
