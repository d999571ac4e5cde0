import json
import pickle
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as reference

from lens_cache.config.data import DataConfig, LisaConfig
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.sets import MissingSetError
from lens_cache.datasets.registry import open_dataset
from lens_cache.errors import ConfigError, DatasetError
from lens_cache.images import masks
from lens_cache.plan.build import build_plan
from tests.support.lisa_refer_world import (
    COCO_IMAGES,
    HEIGHT,
    SAIAPR,
    WIDTH,
    annotation,
    coco_name,
    python2_pickle,
    ref,
    write_refer,
)
from tests.support.pictures import box_mask, box_polygon, runs

BOX = [box_polygon(1, 1, 4, 4)]
OVERLAPPING = [box_polygon(0, 0, 6, 6), box_polygon(3, 3, 10, 8), box_polygon(5, 5, 7, 7)]
SLANTED = [[0.4, 1.2, 9.7, 0.3, 11.1, 6.8, 3.3, 7.9]]


def config(root, *sets, rules="strict", **settings):
    return DataConfig(kind="lisa", root=root, lisa=LisaConfig(sets=sets, rules=rules), **settings)


def records(root, name, rules="strict"):
    return list(open_dataset(config(root, name, rules=rules)))


def added_up(polygons):
    """What LISA's loader makes of polygons: uint8, one for every polygon over a pixel."""
    pieces = reference.decode(reference.frPyObjects(polygons, HEIGHT, WIDTH))
    total = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            total[y, x] = sum(int(n) for n in pieces[y, x]) % 256
    return total


def targets(record):
    return {query.instruction: masks.decode(query.target) for query in record.queries}


def test_an_image_has_all_sentences_of_all_its_refs(tmp_path):
    refs = [
        ref(5, 2, 20, "train", " The Left MAN ", "man"),
        ref(6, 1, 10, "train", "dog"),
        ref(7, 2, 21, "train", "right man", "the left man"),
        ref(8, 2, 20, "val", "not this one"),
    ]
    boxes = [
        annotation(10, 1, BOX),
        annotation(20, 2, BOX),
        annotation(21, 2, [box_polygon(6, 2, 9, 7)]),
    ]
    write_refer(tmp_path, "refcoco", "unc", refs, boxes)
    first, second = records(tmp_path, "refcoco|unc|train")
    assert first.path == PurePosixPath(COCO_IMAGES) / coco_name(2)
    assert [q.instruction for q in first.queries] == [
        "the left man",
        "man",
        "right man",
        "the left man",
    ]
    assert [q.instruction for q in second.queries] == ["dog"]
    assert (first.dataset, first.rejected) == ("refcoco", ())
    for query, box in zip(first.queries, [(1, 1, 4, 4)] * 2 + [(6, 2, 9, 7)] * 2, strict=True):
        assert (query.kind, query.length, query.split) == ("referring", "short", "train")
        assert query.ignore is None
        np.testing.assert_array_equal(masks.decode(query.target), box_mask(*box))


@pytest.mark.parametrize(
    ("split", "kept"),
    [
        ("train", ["train"]),
        ("val", ["val"]),
        ("testA", ["testA", "testAB"]),
        ("testB", ["testB", "testAB", "testBC"]),
        ("testC", ["testBC"]),
        ("test", ["test", "testA", "testB", "testAB", "testBC"]),
    ],
)
def test_splits_are_those_of_the_refer_interface(tmp_path, split, kept):
    found = ["train", "train_more", "val", "test", "testA", "testB", "testAB", "testBC"]
    refs = [ref(n, 1, 10, name, name) for n, name in enumerate(found)]
    write_refer(tmp_path, "refclef", "unc", refs, [annotation(10, 1, BOX)])
    (record,) = records(tmp_path, f"refclef|unc|{split}")
    assert [q.instruction for q in record.queries] == [name.lower() for name in kept]
    assert {q.split for q in record.queries} == {split}


def test_a_split_that_a_variant_has_not_is_named(tmp_path):
    refs = [ref(1, 1, 10, "val", "dog"), ref(2, 1, 10, "train", "dog")]
    write_refer(tmp_path, "refcocog", "google", refs, [annotation(10, 1, BOX)])
    with pytest.raises(ConfigError, match=r"has no ref of split test; it has train, val"):
        records(tmp_path, "refcocog|google|test")
    with pytest.raises(ConfigError, match="not a split of refcocog"):
        records(tmp_path, "refcocog|google|testA")


@pytest.mark.parametrize(
    ("name", "variants"),
    [
        ("refclef", "unc berkeley"),
        ("refcoco", "unc google"),
        ("refcoco+", "unc"),
        ("refcocog", "umd google"),
    ],
)
def test_every_variant_has_its_own_refs_file(tmp_path, name, variants):
    for variant in variants.split():
        refs = [ref(1, 1, 10, "train", variant)]
        write_refer(tmp_path, name, variant, refs, [annotation(10, 1, BOX)])
    for variant in variants.split():
        (record,) = records(tmp_path, f"{name}|{variant}|train")
        assert [q.instruction for q in record.queries] == [variant]
    (record,) = records(tmp_path, name)
    assert [q.instruction for q in record.queries] == [variants.split()[0]]


def test_two_variants_of_a_split_are_not_mixed(tmp_path):
    for variant in ("umd", "google"):
        refs = [ref(1, 1, 10, split, variant) for split in ("train", "val")]
        write_refer(tmp_path, "refcocog", variant, refs, [annotation(10, 1, BOX)])
    with pytest.raises(ConfigError, match="one split val of refcocog; plan them in two stores"):
        open_dataset(config(tmp_path, "refcocog|umd|val", "refcocog|google|val"))
    assert len(open_dataset(config(tmp_path, "refcocog|umd|train", "refcocog|google|val"))) == 2


@pytest.mark.parametrize("polygons", [BOX, OVERLAPPING, SLANTED, OVERLAPPING + SLANTED])
def test_masks_of_polygons(tmp_path, polygons):
    refs = [ref(1, 1, 10, "train", "it")]
    write_refer(tmp_path, "refcoco", "unc", refs, [annotation(10, 1, polygons)])
    total = added_up(polygons)
    for rules in ("parity", "strict"):
        (record,) = records(tmp_path, "refcoco", rules)
        np.testing.assert_array_equal(targets(record)["it"], total > 0)


def test_parity_trains_in_the_direction_of_lisas_losses_where_polygons_overlap(tmp_path):
    """LISA trains with a target of twos there, which asks for more foreground, not for less."""
    refs = [ref(1, 1, 10, "train", "it")]
    write_refer(tmp_path, "refcoco", "unc", refs, [annotation(10, 1, OVERLAPPING)])
    (record,) = records(tmp_path, "refcoco", "parity")
    total = torch.from_numpy(added_up(OVERLAPPING)).float()
    gradients = []
    for target in (total, torch.from_numpy(targets(record)["it"]).float()):
        logits = torch.zeros_like(total, requires_grad=True)
        F.binary_cross_entropy_with_logits(logits, target).backward()
        gradients.append(logits.grad)
    assert (total > 1).any()
    assert torch.equal(gradients[0].sign(), gradients[1].sign())


def test_parity_follows_lisas_score_where_polygons_overlap(tmp_path):
    """LISA compares a prediction of zeros and ones with a target that has twos in it."""
    refs = [ref(1, 1, 10, "val", "it")]
    write_refer(tmp_path, "refcoco", "unc", refs, [annotation(10, 1, OVERLAPPING)])
    (record,) = records(tmp_path, "refcoco|val", "parity")
    target, total = targets(record)["it"], added_up(OVERLAPPING)
    assert (total > 1).any()
    for seed in range(5):
        guess = np.random.default_rng(seed).integers(0, 2, total.shape)
        same = guess[guess == total]
        inter, union = (same == 1).sum(), (guess == 1).sum() + (total == 1).sum()
        assert (guess.astype(bool) & target).sum() == inter
        assert (guess.astype(bool) | target).sum() == union - inter


def test_pieces_that_are_lines_are_drawn_in_parity_alone(tmp_path):
    pieces = [SLANTED[0], [1.0, 1.0, 8.0, 6.0]]
    refs = [ref(1, 1, 10, "train", "it")]
    write_refer(tmp_path, "refcoco", "unc", refs, [annotation(10, 1, pieces)])
    (parity,) = records(tmp_path, "refcoco", "parity")
    np.testing.assert_array_equal(targets(parity)["it"], added_up(pieces) > 0)
    (strict,) = records(tmp_path, "refcoco", "strict")
    assert strict.queries == ()
    assert "at least 3 points" in strict.rejected[0].reason


def forms_of(mask):
    """Every way in which a mask can be written as RLE."""
    compressed = masks.encode(mask)
    return {
        "text": [dict(compressed)],
        "uncompressed": [{"size": [HEIGHT, WIDTH], "counts": runs(mask)}],
        "no list": dict(compressed),
    }


@pytest.mark.parametrize("form", ["text", "uncompressed", "no list"])
@pytest.mark.parametrize("rules", ["strict", "parity"])
def test_rle_of_refclef(tmp_path, form, rules):
    mask = box_mask(2, 1, 9, 6)
    name = "03/images/3001.jpg"
    refs = [ref(1, 1, 10, "train", "sky")]
    drawn = [annotation(10, 1, forms_of(mask)[form])]
    write_refer(tmp_path, "refclef", "unc", refs, drawn, images=(1,), names={1: name})
    (record,) = records(tmp_path, "refclef", rules)
    assert record.path == PurePosixPath(SAIAPR) / name
    np.testing.assert_array_equal(targets(record)["sky"], mask)


def test_rles_of_one_thing_are_added_up_as_polygons_are(tmp_path):
    one, two = box_mask(0, 0, 6, 6), box_mask(3, 3, 10, 8)
    drawn = [annotation(10, 1, [dict(masks.encode(one)), dict(masks.encode(two))])]
    write_refer(tmp_path, "refclef", "unc", [ref(1, 1, 10, "val", "sky")], drawn)
    (parity,), (strict,) = (
        records(tmp_path, "refclef|val", rules) for rules in ("parity", "strict")
    )
    np.testing.assert_array_equal(targets(parity)["sky"], one ^ two)
    np.testing.assert_array_equal(targets(strict)["sky"], one | two)


@pytest.mark.parametrize(
    ("rules", "split", "kept"),
    [("parity", "train", True), ("strict", "train", False)]
    + [(rules, "val", True) for rules in ("parity", "strict")],
)
def test_a_thing_without_a_mask(tmp_path, rules, split, kept):
    refs = [ref(1, 1, 10, split, "ghost"), ref(2, 1, 11, split, "dog")]
    drawn = [annotation(10, 1, []), annotation(11, 1, BOX)]
    write_refer(tmp_path, "refcoco", "unc", refs, drawn)
    (record,) = records(tmp_path, f"refcoco|{split}", rules)
    assert [q.instruction for q in record.queries] == (["ghost"] if kept else []) + ["dog"]
    if kept:
        assert targets(record)["ghost"].shape == (HEIGHT, WIDTH)
        assert not targets(record)["ghost"].any()
    else:
        (rejected,) = record.rejected
        assert rejected.what == "ref 1"
        assert rejected.reason == "annotation 10 of instances.json: the mask has no foreground"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refs_of_python_2_and_3_say_the_same(tmp_path, protocol):
    refs = [ref(1, 1, 10, "train", "the café", "dog"), ref(2, 2, 20, "train", "it")]
    drawn = [annotation(10, 1, BOX), annotation(20, 2, SLANTED)]
    found = []
    for pickled in (
        lambda value: pickle.dumps(value, protocol),
        lambda value: python2_pickle(value, min(protocol, 2)),
    ):
        write_refer(tmp_path, "refcoco", "unc", refs, drawn, pickled=pickled)
        found.append(records(tmp_path, "refcoco"))
    assert found[0] == found[1]
    assert [q.instruction for q in found[0][0].queries] == ["the café", "dog"]


def test_a_sentence_that_stands_there_twice_counts_twice(tmp_path):
    """Benchmarks count sentences; two annotators often wrote the same one."""
    refs = [ref(1, 1, 10, "val", "left man", "Left man ", "man"), ref(2, 1, 11, "val", "left man")]
    drawn = [annotation(10, 1, BOX), annotation(11, 1, SLANTED)]
    write_refer(tmp_path, "refcoco", "unc", refs, drawn, images=(1,))
    plan = build_plan(config(tmp_path, "refcoco|val"))
    words = [q.instruction for q in plan.queries_of(0)]
    assert words == ["left man", "left man", "man", "left man"]
    assert len({q.query_id for q in plan.queries_of(0)}) == 4
    again = build_plan(config(tmp_path, "refcoco|val"))
    assert again.digest() == plan.digest()


def test_bad_entries_are_named_and_the_others_stand(tmp_path):
    broken = {
        "gone": (ref(1, 9, 10, "train", "a"), "instances.json has no image 9"),
        "unlisted": (ref(2, 1, 99, "train", "b"), "instances.json has no annotation 99"),
        "bare": ({"ref_id": 3, "image_id": 1, "ann_id": 10, "split": "train"}, "list of sentences"),
        "outside": (ref(4, 2, 10, "train", "d"), "leads outside the root"),
        "size": (ref(5, 3, 10, "train", "e"), "width and height"),
        "far": (ref(6, 1, 11, "train", "f"), "lies far outside the image"),
        "rle": (ref(7, 1, 12, "train", "g"), "add up to 3 pixels"),
        "none": (ref(8, 1, 13, "train", "h"), "annotation 13 of instances.json has no segment"),
        "empty": (ref(9, 1, 10, "train", " ", "still here"), "expected a text under sent"),
        "text": ({**ref(10, 1, 10, "train"), "image_id": "1"}, "expected a number as image_id"),
        "other": (ref(11, 1, 14, "train", "i"), "the mask is 3 x 3 pixels, the image 12 x 8"),
        "odd": (ref(12, 1, 15, "train", "j"), "expected a list of polygons"),
    }
    drawn = [
        annotation(10, 1, BOX),
        annotation(11, 1, [[1e9, 0, 1, 1, 2, 2]]),
        annotation(12, 1, [{"size": [HEIGHT, WIDTH], "counts": [1, 2]}]),
        {"id": 13, "image_id": 1},
        annotation(14, 1, [{"size": [3, 3], "counts": [1, 8]}]),
        annotation(15, 1, "polygon"),
    ]
    refs = [entry for entry, _ in broken.values()] + [ref(99, 1, 10, "train", "good")]
    write_refer(tmp_path, "refcoco", "unc", refs, drawn, images=(1, 2, 3))
    instances = tmp_path / "refer_seg/refcoco/instances.json"
    document = json.loads(instances.read_text())
    document["images"][1]["file_name"] = "../../secret.jpg"
    document["images"][2]["width"] = None
    instances.write_text(json.dumps(document))
    dataset = open_dataset(config(tmp_path, "refcoco"))
    (record,) = dataset
    assert [q.instruction for q in record.queries] == ["still here", "good"]
    said = [*dataset.rejected, *record.rejected]
    assert len(said) == len(broken)
    for entry, reason in broken.values():
        (found,) = [r for r in said if r.what.split(", sent")[0].endswith(f"ref {entry['ref_id']}")]
        assert reason in found.reason
        assert "\n" not in found.reason
    plan = build_plan(config(tmp_path, "refcoco"))
    assert plan.num_queries == 2
    assert plan.quarantine.num_rows == len(broken)
    where = {row["path"] for row in plan.quarantine.to_pylist()}
    assert f"{COCO_IMAGES}/{coco_name(1)}" in where


def test_a_missing_image_file_is_set_aside(tmp_path):
    refs = [ref(1, 1, 10, "train", "a"), ref(2, 2, 20, "train", "b")]
    drawn = [annotation(10, 1, BOX), annotation(20, 2, BOX)]
    write_refer(tmp_path, "refcoco", "unc", refs, drawn)
    (tmp_path / COCO_IMAGES / coco_name(1)).unlink()
    plan = build_plan(config(tmp_path, "refcoco"))
    assert [q.instruction for q in plan.queries_of(0)] == ["b"]
    (row,) = plan.quarantine.to_pylist()
    assert row["path"] == f"{COCO_IMAGES}/{coco_name(1)}"
    assert row["reason"] == "No such file or directory"


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path):
    with pytest.raises(MissingSetError) as error:
        records(tmp_path, "refclef")
    for words in (
        "refer_seg/refclef/instances.json, refer_seg/refclef/refs(unc).p, " + SAIAPR,
        "refclef.zip",
        "web.archive.org",
        "saiapr_tc-12.zip",
        "data.lisa.missing=skip",
    ):
        assert words in str(error.value)


def test_files_that_cannot_be_read_end_in_one_line(tmp_path):
    path = write_refer(
        tmp_path, "refcoco", "unc", [ref(1, 1, 10, "train", "a")], [annotation(10, 1, BOX)]
    )
    instances = path.with_name("instances.json")
    good = instances.read_bytes()
    for data, words in ((b"[", "not valid JSON"), (b'{"images": []}', "'annotations' is missing")):
        instances.write_bytes(data)
        with pytest.raises(DatasetError, match=words):
            records(tmp_path, "refcoco")
    instances.write_bytes(good)
    path.write_bytes(pickle.dumps({"refs": []}))
    with pytest.raises(DatasetError, match="expected a list of dicts, one per ref"):
        records(tmp_path, "refcoco")


def gref(number, image, annotations, *sentences, split="val"):
    return {**ref(number, image, annotations, split, *sentences), "no_target": annotations == [-1]}


def write_grefs(root, refs, annotations):
    path = write_refer(root, "grefcoco", "unc", [], annotations)
    path.unlink()
    (path.parent / "grefs(unc).json").write_text(json.dumps(refs))


def test_grefcoco_means_several_things_or_none(tmp_path):
    other = [box_polygon(6, 1, 9, 4)]
    write_grefs(
        tmp_path,
        [
            gref(1, 1, [10, 11], "both boxes"),
            gref(2, 1, [10], "the left box"),
            gref(3, 1, [-1], "the cow"),
        ],
        [annotation(10, 1, BOX), annotation(11, 1, other)],
    )
    (record,) = records(tmp_path, "grefcoco|val")
    found = targets(record)
    left, right = (added_up(polygons) > 0 for polygons in (BOX, other))
    assert np.array_equal(found["the left box"], left)
    assert np.array_equal(found["both boxes"], left | right)
    assert not found["the cow"].any()
    plan = build_plan(config(tmp_path, "grefcoco|val"))
    assert plan.num_queries == 3
    assert plan.quarantine.num_rows == 0


def test_training_keeps_expressions_that_mean_nothing(tmp_path):
    refs = [gref(1, 1, [-1], "the cow", split="train"), gref(2, 1, [10], "box", split="train")]
    write_grefs(tmp_path, refs, [annotation(10, 1, [])])
    (record,) = records(tmp_path, "grefcoco|train")
    assert [query.instruction for query in record.queries] == ["the cow"]
    assert [one.what for one in record.rejected] == ["ref 2"]


@pytest.mark.parametrize("ids", [[10, 99], [-1, 10], [], None, "10"])
def test_ids_that_are_no_annotations_are_named(tmp_path, ids):
    write_grefs(tmp_path, [gref(1, 1, ids, "a"), gref(2, 1, [10], "b")], [annotation(10, 1, BOX)])
    (record,) = records(tmp_path, "grefcoco|val")
    if ids == []:  # an empty list means nothing, as [-1]
        assert not targets(record)["a"].any()
        return
    (rejected,) = record.rejected
    assert "has no annotation" in rejected.reason


def test_a_broken_list_of_expressions_is_named(tmp_path):
    write_grefs(tmp_path, [], [])
    (tmp_path / "refer_seg/grefcoco/grefs(unc).json").write_text("<html>")
    with pytest.raises(DatasetError, match="web page"):
        records(tmp_path, "grefcoco|val")


@pytest.mark.parametrize("name", ["fprefcoco", "R-refcoco+", "R-refcocog"])
def test_a_false_premise_means_nothing(tmp_path, name):
    entry = ref(1, 1, 10, "val", "The box", "the cow", "the green box", "box")
    entry["sentences"][1]["is_false_premise"] = True
    entry["sentences"][2]["exist"] = False
    entry["sentences"][3] |= {"is_false_premise": "no", "exist": True}
    variant = KINDS[name].variants[0]
    write_refer(tmp_path, name, variant, [entry], [annotation(10, 1, BOX)])
    (record,) = records(tmp_path, f"{name}|val")
    found = targets(record)
    box = added_up(BOX) > 0
    assert np.array_equal(found["the box"], box)
    assert np.array_equal(found["box"], box)
    assert not found["the cow"].any()
    assert not found["the green box"].any()
