"""Small copies of the semantic sets in LISA's folder, in the formats that they come in."""

import json
import zlib

import numpy as np
from PIL import Image
from pycocotools import mask as coco
from scipy.io import savemat

from tests.support.pictures import box_mask, box_polygon, colours

# As in the set's own config_v2.0.json, cut to the kinds of entries that there are.
MAPILLARY_LABELS = [
    {"name": "animal--bird", "readable": "Bird", "evaluate": True},
    {"name": "human--person--individual", "readable": "Person", "evaluate": True},
    {"name": "human--person--person-group", "readable": "Person Group", "evaluate": False},
    {"name": "human--rider--other-rider", "readable": "Other Rider", "evaluate": True},
    {"name": "marking--discrete--text", "readable": "Lane Marking - Text", "evaluate": True},
    {"name": "marking-only--discrete--text", "readable": "Lane Marking (only) - Test"},
    {"name": "object--sign--store", "readable": "Signage - Store", "evaluate": True},
    {"name": "object--traffic-sign--back", "readable": "Traffic Sign (Back)", "evaluate": True},
    {"name": "object--traffic-sign--front", "readable": "Traffic Sign (Front)", "evaluate": True},
    {"name": "void--ego-vehicle", "readable": "Ego Vehicle", "evaluate": True},
    {"name": "void--unlabeled", "readable": "Unlabeled", "evaluate": False},
]
PACO_CATEGORIES = [
    {"id": 10, "name": "mug", "supercategory": "OBJECT"},
    {"id": 23, "name": "trash_can", "supercategory": "OBJECT"},
    {"id": 41, "name": "car_(automobile)", "supercategory": "OBJECT"},
    {"id": 106, "name": "mug:handle", "supercategory": "PART"},
    {"id": 107, "name": "car_(automobile):wheel", "supercategory": "PART"},
    {"id": 108, "name": "trash_can:inner_side", "supercategory": "PART"},
]
PASCAL_CATEGORIES = [
    {"id": 19, "name": "bus:license plate", "abbr": "bus:liplate"},
    {"id": 49, "name": "dog:head"},
    {"id": 84, "name": "potted plant:pot"},
]


def blocks(height, width, values):
    """A label map of vertical stripes of these values, shape (height, width), uint8."""
    places = np.arange(width) * len(values) // width
    return np.tile(np.array(values, dtype=np.uint8)[places], (height, 1))


def write_photo(path, height, width):
    """Write a picture that is another one for every name of a file and size."""
    seed = zlib.crc32(path.name.encode())
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours(width, height, seed)).save(path, "JPEG")


def write_label(path, values, mode="L"):
    """Write a label map as greyscale (L), palette (P), 16 bits (I;16), RGB or LA."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode == "I;16":
        picture = Image.fromarray(values.astype(np.uint16))
    else:
        picture = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        picture = picture.copy()
        picture.putpalette(bytes(range(255, -1, -1)) * 3)
    elif mode in ("RGB", "LA"):
        picture = picture.convert(mode)
    picture.save(path, "PNG")


def _write_maps(images, labels, maps, mode):
    for stem, values in maps.items():
        write_photo(images / f"{stem}.jpg", *values.shape)
        write_label(labels / f"{stem}.png", values, mode)


def write_ade20k(root, maps, folder="training", mode="L"):
    """Write ADE20K with these label maps by stem; values are 0 to 150."""
    _write_maps(root / "ade20k/images" / folder, root / "ade20k/annotations" / folder, maps, mode)


def write_cocostuff(root, maps, folder="train2017", mode="L"):
    """Write COCO-Stuff with these label maps by stem; values are 0 to 181 and 255."""
    _write_maps(root / "coco" / folder, root / "cocostuff" / folder, maps, mode)


def write_mapillary(root, maps, variant="v2.0", folder="training", mode="P"):
    """Write Mapillary Vistas with these label maps by stem, and its configuration."""
    base = root / "mapillary" / folder
    _write_maps(base / "images", base / variant / "labels", maps, mode)
    labels = [{"evaluate": True, "instances": False, **label} for label in MAPILLARY_LABELS]
    text = json.dumps({"labels": labels, "version": variant.removeprefix("v")})
    (root / "mapillary" / f"config_{variant}.json").write_text(text)


def annotation(number, image, category, segmentation, **more):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        **more,
    }


def text_rle(mask):
    """A compressed RLE with its counts as text, as in JSON."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def list_rle(mask):
    """An uncompressed RLE."""
    flat = np.asarray(mask).T.ravel()
    edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    runs = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def paco_document():
    """Two images of 12 x 8 and one of 6 x 10 (portrait) pixels with all forms of masks."""
    images = [
        {"id": 7, "file_name": "train2017/000000000007.jpg", "width": 12, "height": 8},
        {"id": 3, "file_name": "train2017/000000000003.jpg", "width": 6, "height": 10},
        {"id": 5, "file_name": "val2017/000000000005.jpg", "width": 12, "height": 8},
    ]
    images[1]["not_exhaustive_category_ids"] = [41]
    overlapping = [box_polygon(0, 0, 5, 5), box_polygon(3, 3, 8, 7)]
    annotations = [
        # Two mugs, of which the first is divided; a third handle lies on none.
        annotation(1, 7, 10, overlapping, obj_ann_id=1),
        annotation(2, 7, 106, text_rle(box_mask(4, 0, 5, 1)), obj_ann_id=1),  # one pixel
        annotation(3, 3, 41, text_rle(box_mask(0, 0, 3, 9, 6, 10)), obj_ann_id=3),
        annotation(4, 7, 10, list_rle(box_mask(9, 1, 12, 8)), obj_ann_id=4),
        annotation(5, 7, 106, list_rle(box_mask(0, 6, 2, 8)), obj_ann_id=1),
        annotation(6, 3, 107, list_rle(box_mask(0, 0, 2, 2, 6, 10)), obj_ann_id=3),
        annotation(7, 3, 23, text_rle(box_mask(3, 5, 6, 10, 6, 10)), obj_ann_id=7),
        annotation(8, 3, 108, text_rle(box_mask(4, 6, 5, 7, 6, 10)), obj_ann_id=7),
    ]
    return {"images": images, "annotations": annotations, "categories": PACO_CATEGORIES}


def write_paco(root, document=None, split="train"):
    """Write PACO-LVIS; images are made as large as the document says."""
    document = document or paco_document()
    for image in document["images"]:
        write_photo(root / "coco" / image["file_name"], image["height"], image["width"])
    path = root / f"vlpart/paco/annotations/paco_lvis_v1_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def pascal_document():
    """One image of 12 x 8 pixels whose entry says 512 x 512, with two heads and an empty pot."""
    heads = [box_mask(1, 1, 4, 4), box_mask(8, 2, 12, 8)]
    nothing = np.zeros((8, 12), dtype=bool)
    return {
        "images": [{"id": 2008000002, "file_name": "2008_000002.jpg", "height": 512, "width": 512}],
        "annotations": [
            annotation(0, 2008000002, 49, text_rle(heads[0]), iscrowd=0),
            annotation(1, 2008000002, 19, text_rle(box_mask(0, 7, 1, 8)), iscrowd=0),
            annotation(2, 2008000002, 49, text_rle(heads[1]), iscrowd=0),
            annotation(3, 2008000002, 84, text_rle(nothing), iscrowd=0),
        ],
        "categories": PASCAL_CATEGORIES,
    }


def write_pascal_part(root, document=None, split="train", size=(8, 12)):
    """Write PASCAL-Part; all images are ``size``, (height, width)."""
    document = document or pascal_document()
    folder = root / "vlpart/pascal_part"
    for image in document["images"]:
        write_photo(folder / "VOCdevkit/VOC2010/JPEGImages" / image["file_name"], *size)
    (folder / f"{split}.json").write_text(json.dumps(document))


def write_mat(path, objects):
    """Write a MATLAB file of PASCAL-Part; objects are (class, mask, {part name: mask})."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = [("class", "O"), ("class_ind", "O"), ("mask", "O"), ("parts", "O")]
    rows = np.zeros((1, len(objects)), dtype=fields)
    for place, (name, mask, parts) in enumerate(objects):
        inner = np.zeros((1, len(parts)), dtype=[("part_name", "O"), ("mask", "O")])
        for number, (part, drawn) in enumerate(parts.items()):
            inner[0, number] = (part, drawn.astype(np.uint8))
        # MATLAB's own files hold an empty matrix where an object has no parts.
        rows[0, place] = (name, 1.0, mask.astype(np.uint8), inner if parts else np.zeros((0, 0)))
    savemat(path, {"anno": {"imname": path.stem, "objects": rows}})


def write_semantic_world(root):
    """Write all five sets, small, with every quirk that keeps a picture usable."""
    maps = {"000000000009": blocks(8, 12, [0, 105, 171, 255])}
    maps["000000000003"] = blocks(10, 6, [71, 181])  # portrait, also in PACO; the last class
    write_cocostuff(root, maps)
    write_ade20k(root, {"ADE_train_00000001": blocks(8, 12, [0, 1, 150, 255])})
    write_ade20k(root, {"ADE_val_00000001": blocks(6, 9, [3, 4])}, "validation", "P")
    for variant in ("v2.0", "v1.2"):
        write_mapillary(root, {"key-1": blocks(9, 16, [0, 1, 4, 9, 10, 255])}, variant)
    write_paco(root)
    write_pascal_part(root)
