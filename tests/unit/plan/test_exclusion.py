import dataclasses
from pathlib import PurePosixPath

import pytest

from lens_cache.config.data import DataConfig, LisaConfig
from lens_cache.datasets.lisa.evaluation_images import benchmark_sets, coco_id
from lens_cache.datasets.source import in_threads
from lens_cache.errors import DatasetError
from lens_cache.plan.build import build_plan
from tests.support.lisa_sets import only_fake_kinds, write_set

ONE = [["Thing"]]
COCO_VAL = "mscoco/COCO_train2014_000000000009.jpg"


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    only_fake_kinds(monkeypatch)


@pytest.fixture
def root(tmp_path):
    """Training images: one by content, one by COCO id (another file), two that nothing tests on."""
    semantic = [
        ("coco/train2017/000000000009.jpg", 1, ONE, "short"),
        ("ade/copy.png", 100, ONE, "short"),
        ("ade/free.png", 3, ONE, "short"),
        ("ade/000000000009.jpg", 4, ONE, "short"),
    ]
    write_set(tmp_path, "ade20k", semantic)
    write_set(tmp_path, "refcoco", [(COCO_VAL, 200, ONE, "short")], "val")
    reasoning = [("reason/a.png", 100, ONE, "long"), ("reason/b.png", None, ONE, "long")]
    write_set(tmp_path, "reason_seg", reasoning, "test")
    return tmp_path


def config(root, sets=("ade20k",), **lisa):
    lisa = {"exclude_eval_images": True, **lisa}
    return DataConfig(kind="lisa", root=root, lisa=LisaConfig(sets=sets, **lisa))


def paths(plan):
    return [str(plan.image(index).path) for index in range(plan.num_images)]


def rows(plan, what):
    found = [row for row in plan.quarantine.to_pylist() if row["what"] == what]
    return [(row["path"], row["reason"]) for row in found]


def test_coco_id():
    assert coco_id(PurePosixPath("a/COCO_train2014_000000000009.jpg")) == 9
    assert coco_id(PurePosixPath("COCO_val2014_000000581929.jpg")) == 581929
    assert coco_id(PurePosixPath("coco/train2017/000000000009.jpg")) == 9
    assert coco_id(PurePosixPath("coco/val2017/000000000139.jpg")) == 139
    for other in ("ade/000000000009.jpg", "train2017/9.jpg", "train2017/000000000009.png"):
        assert coco_id(PurePosixPath(other)) is None


def test_images_of_benchmarks_are_left_out_by_content_and_by_coco_id(root):
    plan = build_plan(config(root))
    assert paths(plan) == ["ade/free.png", "ade/000000000009.jpg"]
    assert rows(plan, "image to test on") == [
        (
            "coco/train2017/000000000009.jpg",
            "the evaluation set refcoco|val has it: COCO image 9",
        ),
        ("ade/copy.png", "the evaluation set reason_seg|test has it: same content"),
    ]


def test_without_the_setting_nothing_is_left_out(root):
    plan = build_plan(config(root, exclude_eval_images=False))
    assert plan.num_images == 4
    assert plan.quarantine.num_rows == 0


def test_the_benchmarks_themselves_stay(root):
    plan = build_plan(config(root, ("ade20k", "refcoco|val", "reason_seg|test")))
    assert paths(plan)[2:] == [COCO_VAL, "reason/a.png"]


def test_benchmarks_that_are_not_there_are_told(root):
    told = [reason for _, reason in rows(build_plan(config(root)), "benchmark")]
    missing = ["refcoco|testA", "reason_seg|val"]
    assert [reason.split(":")[1].strip() for reason in told] == [f"opening {n}" for n in missing]
    assert all("get it at https://example.org" in reason for reason in told)


def test_no_benchmark_is_there(tmp_path):
    write_set(tmp_path, "ade20k", [("a.png", 1, ONE, "short")])
    with pytest.raises(DatasetError, match=r"so the images to exclude are unknown"):
        build_plan(config(tmp_path))


def test_benchmark_sets():
    assert benchmark_sets() == ("refcoco|val", "refcoco|testA", "reason_seg|val", "reason_seg|test")


def test_draws_replace_them(root):
    plan = build_plan(config(root, draws=60))
    assert paths(plan) == ["ade/free.png", "ade/000000000009.jpg"]
    assert all(len(plan.drawn(index)) == 1 for index in range(60))
    assert len(rows(plan, "image to test on")) == 2


def test_threads_do_not_matter(root):
    plans = [build_plan(config(root), mapper=in_threads(number)) for number in (1, 4)]
    assert plans[0].digest() == plans[1].digest()
    assert dataclasses.replace(plans[0]).to_files() == plans[1].to_files()
