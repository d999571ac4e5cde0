"""All ten sets of LISA and the benchmarks in one folder, each in its own layout."""

import pickle
from functools import partial

from tests.support.lisa_refer_world import (
    annotation,
    box_points,
    python2_pickle,
    ref,
    shape,
    write_reason,
    write_refer,
)
from tests.support.lisa_semantic import text_rle, write_semantic_world
from tests.support.pictures import box_mask, box_polygon

BENCHMARKS = (
    "refcoco|val",
    "refcoco|testA",
    "refcoco|testB",
    "refcoco+|val",
    "refcoco+|testA",
    "refcoco+|testB",
    "refcocog|val",
    "refcocog|test",
    "reason_seg|val",
    "reason_seg|test",
)


def write_world(root):
    """Write everything; image 9 of COCO trains in COCO-Stuff and is tested on in RefCOCO.

    Quirks that keep an image usable: those of ``write_semantic_world``, refs of Python 2 and 3,
    overlapping polygons, RLE with its counts as text, a split testAB, a sentence that stands there
    twice, cp1252 texts, an ignored area inside a target, notes without outlines.
    """
    write_semantic_world(root)
    _write_referring(root)
    _write_reasoning(root)
    return root


def _write_referring(root):
    overlapping = [box_polygon(0, 0, 5, 5), box_polygon(3, 3, 8, 7)]
    annotations = [
        annotation(16, 11, overlapping),
        annotation(17, 12, [box_polygon(1, 1, 6, 4)]),
        annotation(18, 9, [box_polygon(2, 0, 9, 8)]),
        annotation(19, 13, [box_polygon(0, 2, 12, 8)]),
        annotation(20, 14, [box_polygon(4, 4, 5, 5)]),
    ]
    refs = [
        ref(1, 11, 16, "train", "the left one", "Left  Thing "),
        ref(2, 12, 17, "train", "a box", "a box", "the only box", "that"),
        ref(3, 9, 18, "val", "the wide one"),
        ref(4, 13, 19, "testA", "everything below"),
        ref(5, 14, 20, "testB", "a dot"),
    ]
    images = (9, 11, 12, 13, 14)
    for name in ("refcoco", "refcoco+"):
        write_refer(root, name, "unc", refs, annotations, images=images, pickled=python2_pickle)
    umd = [{**entry, "split": entry["split"].rstrip("AB")} for entry in refs]
    write_refer(root, "refcocog", "umd", umd, annotations, images=images)
    segmentation = [text_rle(box_mask(3, 1, 9, 6))]
    clef = [ref(1, 1, 16, "train", "sky"), ref(2, 2, 17, "testAB", "the tree")]
    write_refer(
        root,
        "refclef",
        "unc",
        clef,
        [annotation(16, 1, segmentation), annotation(17, 2, segmentation)],
        names={1: "saiapr_1.jpg", 2: "saiapr_2.jpg"},
        pickled=partial(pickle.dumps, protocol=2),
    )


def _write_reasoning(root):
    target, ignored = box_points(1, 1, 9, 7), box_points(4, 3, 6, 5)
    both = [shape("target", target), shape("ignore", ignored)]
    texts = ["What could hold café crème?", "Where would one put a drink?"]
    write_reason(root, "train", "a", both, texts, encoding="cp1252", seed=50)
    write_reason(root, "train", "b", [shape("target", target)], ["the cup"], False, seed=51)
    write_reason(root, "val", "c", both, seed=52)
    write_reason(root, "val", "d", [shape("target", target)], ["the cup"], False, seed=53)
    write_reason(root, "test", "e", [shape("target", target)], seed=54)
    write_reason(root, "test", "f", [], seed=55)  # as two of the real ones
