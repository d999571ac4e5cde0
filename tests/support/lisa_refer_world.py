"""Small referring and reasoning sets in the very formats that LISA's folder has."""

import io
import json
import pickle
import struct
from typing import ClassVar

from tests.support.pictures import box_polygon, write_image

COCO_IMAGES = "refer_seg/images/mscoco/images/train2014"
SAIAPR = "refer_seg/images/saiapr_tc-12"
REASONS = "reason_seg/ReasonSeg"
WIDTH, HEIGHT = 12, 8


class Python2Pickler(pickle._Pickler):
    """Writes every text as Python 2 wrote its ``str``: as bytes that do not say their encoding."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def __init__(self, sink, protocol, encoding="utf-8"):
        super().__init__(sink, protocol)
        self.encoding = encoding

    def save_str(self, text):
        data = text.encode(self.encoding)
        if not self.bin:
            self.write(b"S" + repr(data)[1:].encode("ascii") + b"\n")
        elif len(data) < 256:
            self.write(b"U" + struct.pack("<B", len(data)) + data)
        else:
            self.write(b"T" + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[str] = save_str


def python2_pickle(value, protocol=0, encoding="utf-8"):
    """Return what ``pickle.dumps`` of Python 2 returned."""
    sink = io.BytesIO()
    Python2Pickler(sink, protocol, encoding).dump(value)
    return sink.getvalue()


def ref(number, image, annotation, split, *sentences):
    """Return one entry of a refs file."""
    return {
        "ref_id": number,
        "ann_id": annotation,
        "category_id": 1,
        "image_id": image,
        "file_name": f"COCO_train2014_{image:012d}_{annotation}.jpg",
        "split": split,
        "sent_ids": list(range(len(sentences))),
        "sentences": [
            {"sent_id": place, "sent": text, "raw": text, "tokens": text.split()}
            for place, text in enumerate(sentences)
        ],
    }


def annotation(number, image, segmentation):
    """Return one annotation of instances.json."""
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [0, 0, 1, 1],
        "area": 1.0,
        "segmentation": segmentation,
    }


def coco_name(image):
    return f"COCO_train2014_{image:012d}.jpg"


def write_refer(
    root, name, variant, refs, annotations, *, images=(1, 2), names=None, pickled=pickle.dumps
):
    """Write a set with its images, 12 x 8 pixels each, and return the refs file."""
    folder = root / "refer_seg" / name
    folder.mkdir(parents=True, exist_ok=True)
    pictures = root / (SAIAPR if name == "refclef" else COCO_IMAGES)
    names = names or {image: coco_name(image) for image in images}
    entries = []
    for image in images:
        write_image(pictures / names[image], WIDTH, HEIGHT, seed=image)
        entries.append({"id": image, "file_name": names[image], "width": WIDTH, "height": HEIGHT})
    document = {
        "info": {},
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "instances.json").write_text(json.dumps(document), encoding="utf-8")
    path = folder / f"refs({variant}).p"
    path.write_bytes(pickled(refs))
    return path


def shape(label, points):
    """Return one shape of a ReasonSeg file."""
    return {
        "label": label,
        "labels": [label],
        "shape_type": "polygon",
        "image_name": "a.jpg",
        "points": points,
        "group_id": None,
        "flags": {},
    }


def box_points(x0, y0, x1, y1):
    """Return the corners of a box as LabelMe has them."""
    flat = box_polygon(x0, y0, x1, y1)
    return [[float(x), float(y)] for x, y in zip(flat[::2], flat[1::2], strict=True)]


def write_reason(
    root,
    split,
    name,
    shapes,
    text=("What could roll?",),
    is_sentence=True,
    *,
    encoding="utf-8",
    size=(WIDTH, HEIGHT),
    seed=0,
):
    """Write an image of a ReasonSeg split with its JSON file."""
    path = root / REASONS / split / f"{name}.jpg"
    write_image(path, *size, seed=seed)
    notes = {"text": list(text), "is_sentence": is_sentence, "shapes": shapes}
    data = json.dumps(notes, ensure_ascii=False).encode(encoding)
    path.with_suffix(".json").write_bytes(data)
    return path
