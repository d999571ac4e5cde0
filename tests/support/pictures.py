"""Small pictures and datasets, made on the spot."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from lens_cache.images import masks

CATEGORIES = [
    {"id": 1, "name": "person"},
    {"id": 18, "name": "dog"},
    {"id": 184, "name": "tree-merged"},
    {"id": 199, "name": "wall-other-merged"},
    {"id": 171, "name": "wall-brick"},
]


def colours(width=12, height=8, seed=0):
    """Random RGB pixels, shape (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(image, format="PNG", **options):
    """Return the bytes of an image file; ``image`` is a Pillow image or an array."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    sink = io.BytesIO()
    picture.save(sink, format, **options)
    return sink.getvalue()


def rotated(pixels, orientation, format="PNG"):
    """Return a file whose EXIF block asks for an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(pixels, format, exif=exif)


def write_image(path, width=12, height=8, seed=0):
    """Write an RGB PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(colours(width, height, seed)))


def box_polygon(x0, y0, x1, y1):
    """Return the outline of a box as COCO writes it."""
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def box_mask(x0, y0, x1, y1, width=12, height=8):
    """Return the same box as a mask, shape (height, width)."""
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def write_coco(folder, *, split="train2017", num_images=3, width=12, height=8, images_in=None):
    """Write a small COCO dataset with instances and panoptic annotations.

    Image k (file ``k.png``, id k + 1) shows a person in two boxes, a dog (every second image), a
    crowd of persons, a tree and a wall; the last column of the panoptic map is void.

    Args:
        folder: Becomes the dataset's root.
        split: Part of the file names.
        num_images: How many images.
        width: Of every image, at least 12.
        height: Of every image, at least 8.
        images_in: Folder of the images below ``folder``; ``split`` if not given.

    Returns:
        The root.
    """
    folder = Path(folder)
    (folder / "annotations" / f"panoptic_{split}").mkdir(parents=True, exist_ok=True)
    images, instances, panoptic = [], [], []
    for k in range(num_images):
        name, number = f"{k:04d}.png", k + 1
        place = folder / (split if images_in is None else images_in)
        write_image(place / name, width, height, seed=k)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        instances += _instances(k, width, height, first=10 * number)
        ids, segments = _segments(k, width, height)
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
        Image.fromarray(rgb).save(folder / "annotations" / f"panoptic_{split}" / name)
        panoptic.append({"image_id": number, "file_name": name, "segments_info": segments})
    for kind, annotations in (("instances", instances), ("panoptic", panoptic)):
        document = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        path = folder / "annotations" / f"{kind}_{split}.json"
        path.write_text(json.dumps(document), encoding="utf-8")
    return folder


def edit_json(path, change):
    """Apply ``change`` to the document in a JSON file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def _instances(k, width, height, first):
    crowd = box_mask(0, 5, width, 8, width, height)
    things = [
        (1, [box_polygon(0, 0, 3, 3)], 0),
        (1, [box_polygon(5, 1, 8, 6)], 0),
        (1, {"size": [height, width], "counts": runs(crowd)}, 1),
    ]
    if k % 2 == 0:
        things.append((18, masks.encode(box_mask(8, 0, 11, 4, width, height)), 0))
    return [
        {
            "id": first + i,
            "image_id": k + 1,
            "category_id": category,
            "segmentation": segmentation,
            "iscrowd": crowd,
        }
        for i, (category, segmentation, crowd) in enumerate(things)
    ]


def _segments(k, width, height):
    """Return a map of segment ids, some beyond 16 bits, and its segments_info."""
    ids = np.full((height, width), 70000)
    ids[: height // 2] = 300
    ids[1:3, 1:3] = 7
    ids[4:6, 4:6] = 8
    segments = [(300, 199, 0), (70000, 184, 0), (7, 1, 0), (8, 1, 0)]
    if k % 2 == 0:
        ids[0, 5:8] = 9
        ids[height - 1, :4] = 65536 * 3 + 256 * 2 + 1
        segments += [(9, 18, 0), (65536 * 3 + 256 * 2 + 1, 1, 1)]
    ids[:, -1] = 0
    return ids, [{"id": n, "category_id": c, "iscrowd": crowd} for n, c, crowd in segments]


def runs(mask):
    """Return uncompressed COCO run lengths of a mask: column by column, background first."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return [0, *lengths] if flat[0] else lengths
