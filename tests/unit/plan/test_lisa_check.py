from dataclasses import replace
from pathlib import Path

import pytest

from lens_cache.config.data import LISA_SETS
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa import published_counts as published
from lens_cache.datasets.lisa.sets import SetName
from lens_cache.datasets.source import in_threads
from lens_cache.errors import ConfigError, DatasetError
from lens_cache.plan.lisa_check import FolderCheck, SetCheck, check_folder
from pipelines.cli.data_report import folder_check
from tests.support.lisa_sets import FakeSet, only_fake_kinds, write_set
from tests.support.pictures import write_image

ONE, TWO = [["Thing"]], [["Thing"], ["Other"]]


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    only_fake_kinds(monkeypatch)


@pytest.fixture
def root(tmp_path):
    ade = [
        ("coco/train2017/000000000009.jpg", 1, TWO, "short"),
        ("ade/b.png", 2, ONE, "short"),
        ("ade/c.png", 3, ONE, "short"),
    ]
    write_set(tmp_path, "ade20k", ade)
    refcoco = [
        ("mscoco/COCO_train2014_000000000009.jpg", 100, ONE, "short"),
        ("mscoco/COCO_train2014_000000000010.jpg", 101, ONE, "short"),
    ]
    write_set(tmp_path, "refcoco", refcoco, "val")
    write_set(tmp_path, "reason_seg", [("reason/a.png", 3, ONE, "long")], "test")
    return tmp_path


def checked(root, *sets, quick=False):
    return check_folder(root, sets, in_threads(2), lambda *_: None, quick=quick)


def test_a_good_folder(root):
    found = checked(root, "ade20k", "refcoco|val")
    assert found.good
    assert [(each.images, each.queries) for each in found.sets] == [(3, 4), (2, 2)]
    assert all(not each.rejected for each in found.sets)


def test_overlaps_by_content_and_by_coco_id(root):
    found = checked(root, "refcoco|val", "ade20k", "reason_seg|test")
    assert [tuple(overlap) for overlap in found.overlaps] == [
        ("ade20k|train", "refcoco|val", 0, 1, True, False, ("coco/train2017/000000000009.jpg",)),
        ("ade20k|train", "reason_seg|test", 1, 0, True, False, ("ade/c.png",)),
    ]
    text = folder_check(found).text
    assert "ade20k|train TRAINS ON IMAGES OF refcoco|val: 0 by content, 1 by COCO id" in text
    assert "exclude_eval_images=true" in text


def test_a_missing_set(root):
    found = checked(root, "ade20k", "refcocog")
    assert not found.good
    assert [each.good for each in found.sets] == [True, False]
    assert "refcocog/train.json not found" in found.sets[1].missing
    text = folder_check(found).text
    assert "get it at https://example.org/refcocog" in text
    assert "1 of 2 sets are missing or broken" in text


def test_everything_is_looked_at_if_nothing_is_named(root):
    names = [each.name for each in checked(root, quick=True).sets]
    assert names == [f"{name}|train" for name in KINDS] + [
        "refcoco|val",
        "refcoco|testA",
        "reason_seg|val",
        "reason_seg|test",
    ]


def test_unreadable_images(root):
    path = root / "ade/b.png"
    path.write_bytes(path.read_bytes()[:60])
    (root / "ade/c.png").unlink()
    found = checked(root, "ade20k")
    assert not found.good
    reasons = [(problem.path, problem.reason) for problem in found.sets[0].unreadable]
    assert [path for path, _ in reasons] == ["ade/b.png", "ade/c.png"]
    assert reasons[0][1].startswith("cannot be decoded")
    assert reasons[1][1] == "No such file or directory"
    assert checked(root, "ade20k", quick=True).good


def test_few_images_without_a_label_are_normal_and_many_are_not(tmp_path):
    usable = [(f"a/{n}.png", n, ONE, "short") for n in range(120)]
    for empty, good in ((1, True), (2, False)):
        records = [(f"e/{n}.png", 500 + n, [], "short") for n in range(empty)]
        write_set(tmp_path, "ade20k", usable + records)
        found = checked(tmp_path, "ade20k")
        assert (found.good, found.sets[0].unusable) == (good, empty)
        assert len(found.sets[0].rejected) == empty


def test_masks_of_another_size_are_told(root):
    write_image(root / "ade/b.png", width=20)
    found = checked(root, "ade20k").sets[0]
    reasons = [problem.reason for problem in found.rejected]
    assert reasons == ["the mask is 12 x 8 pixels, the image 20 x 8"]
    assert (found.queries, found.unusable, found.good) == (3, 1, False)


def test_a_broken_set_does_not_stop_the_others(root, monkeypatch):
    def explode(*_):
        raise DatasetError("reading x.json: not JSON")

    monkeypatch.setattr("tests.support.lisa_sets.FakeSet.__init__", explode)
    found = checked(root, "ade20k", "refcoco|val")
    assert [each.broken for each in found.sets] == ["reading x.json: not JSON"] * 2
    assert not found.good
    assert folder_check(found).document["sets"][0]["good"] is False


def test_published_counts(root):
    count = published.published_count(SetName("refcoco", "unc", "val"))
    assert (count.images, count.queries, count.verified) == (1500, 10834, True)
    assert published.published_count(SetName("refcoco", "google", "val")) is None
    assert published.published_count(SetName("mapillary", "v1.2", "train")).images == 18000
    text = folder_check(checked(root, "ade20k", "reason_seg|test")).text
    assert "20210 images (differs): boschresearch/OASIS issue 7" in text


def test_what_was_not_counted_is_neither_the_same_nor_another_number():
    count = published.PublishedCount(set="s", split="t", queries=9, source="A", verified=True)
    for queries, said in ((None, "9 queries: A"), (9, "9 queries (same): A"), (8, "9 queries (d")):
        entry = SetCheck("s|t", images=3, queries=queries, published=count)
        text = folder_check(FolderCheck(Path(), True, [entry], [])).text
        assert said in text


def test_every_default_set_has_published_counts():
    for name in LISA_SETS:
        assert any(count.set == name and count.split == "train" for count in published._counts())


def test_unverified_numbers_are_marked(root):
    write_set(root, "pascal_part", [("p/a.png", 9, ONE, "short")])
    text = folder_check(checked(root, "pascal_part")).text
    assert "4366 images (differs), unverified: LISA's log" in text


def test_mistakes(root):
    with pytest.raises(ConfigError, match="no set 'nope'"):
        checked(root, "nope")
    with pytest.raises(DatasetError, match="it is not a folder"):
        checked(root / "nowhere", "ade20k")


def test_training_sets_that_share_images_are_told_and_benchmarks_that_do_are_not(root):
    shared = [("ade/b.png", 2, ONE, "short"), ("reason/a.png", 3, ONE, "short")]
    write_set(root, "paco_lvis", shared)
    write_set(root, "refcoco", [("reason/a.png", 3, ONE, "short")], "testA")
    found = checked(root, "ade20k", "paco_lvis", "refcoco|testA", "reason_seg|test")
    text = folder_check(found).text
    assert "ade20k|train shares images with paco_lvis|train: 2 by content" in text
    assert "refcoco|testA shares" not in text
    assert ("refcoco|testA", "reason_seg|test") in {(o.one, o.other) for o in found.overlaps}


def test_images_without_annotations_are_not_broken(root, monkeypatch):
    write_set(root, "paco_lvis", [("p/a.png", 7, [], "short"), ("p/b.png", 8, ONE, "short")])
    assert not checked(root, "paco_lvis").good
    plain = FakeSet.__getitem__
    monkeypatch.setattr(FakeSet, "__getitem__", lambda s, i: replace(plain(s, i), rejected=()))
    assert checked(root, "paco_lvis").good
