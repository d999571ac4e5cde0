"""Convert PASCAL-Part's MATLAB files to the COCO file that LISA reads.

    Annotations_Part/2008_000002.mat
    VOCdevkit/VOC2010/ImageSets/Main/train.txt   (names of images, one per line)

The result equals that of VLPart's ``pascal_part_mat2json.py``: the same 93 categories, and the same
merging of parts. The words of an object's categories are searched in the name of the part, in their
order, and the first match is used: "lfuleg" is a leg, "rbpa" a paw, "chainwheel" a wheel. A part
without a match ("stern", "lebrow") is skipped. Boxes follow VLPart, and so do areas, which are
those of the boxes. Height and width are those of the masks.

Reading needs scipy (``pip install 'lens-cache[pascal]'``). MATLAB files of version 5 contain arrays
only; nothing in them is executed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lens_cache.datasets.base import Rejected
from lens_cache.errors import ConfigError, DatasetError, one_line
from lens_cache.images import masks

_PARTS = {
    "aeroplane": "body, wing, tail, wheel",
    "bicycle": "wheel, handlebar, saddle",
    "bird": "beak, head, eye, leg, foot, wing, neck, tail, torso",
    "bottle": "body, cap",
    "bus": "license plate, headlight, door, mirror, window, wheel",
    "car": "license plate, headlight, door, mirror, window, wheel",
    "cat": "head, leg, ear, eye, paw, neck, nose, tail, torso",
    "cow": "head, leg, ear, eye, neck, horn, muzzle, tail, torso",
    "dog": "head, leg, ear, eye, paw, neck, nose, muzzle, tail, torso",
    "horse": "head, leg, ear, eye, neck, muzzle, tail, torso",
    "motorbike": "wheel, handlebar, headlight, saddle",
    "person": "hair, head, ear, eye, nose, neck, mouth, arm, hand, leg, foot, torso",
    "potted plant": "plant, pot",
    "sheep": "head, leg, ear, eye, neck, horn, muzzle, tail, torso",
}
# Spellings of the MATLAB files for category words that do not occur in part names.
_SPELLINGS = {"license plate": "liplate", "paw": "pa"}
_OBJECTS = {"pottedplant": "potted plant"}
_SOURCE = "http://roozbehm.info/pascal-parts/trainval.tar.gz"
_ANNOTATIONS = ("", "Annotations_Part", "trainval/Annotations_Part")
_SPLITS = ("VOCdevkit/VOC2010/ImageSets/Main", "VOC2010/ImageSets/Main", "ImageSets/Main")


def categories() -> list[dict[str, Any]]:
    """Return VLPart's categories, ids 1 to 93."""
    pairs = [(thing, part) for thing, parts in _PARTS.items() for part in parts.split(", ")]
    return [
        {"id": number, "name": f"{thing}:{part}"}
        | ({"abbr": f"{thing}:{_SPELLINGS[part]}"} if part in _SPELLINGS else {})
        for number, (thing, part) in enumerate(pairs, start=1)
    ]


def find_annotations(folder: Path) -> Path:
    """Return the folder of the MATLAB files: ``folder`` itself, or a folder in it or next to it.

    Raises:
        DatasetError: If there is none.
    """
    for place in _places(folder, _ANNOTATIONS):
        if any(place.glob("*.mat")):
            return place
    raise DatasetError(
        f"reading PASCAL-Part: no *.mat file in {folder}, nor in Annotations_Part in it or next to "
        f"it; unpack {_SOURCE} there"
    )


def read_split(folder: Path, split: str) -> list[str]:
    """Return the names of a split's images.

    Args:
        folder: VOCdevkit, its parent, or a folder next to it.
        split: The name of a file in ``ImageSets/Main``, or a path.

    Raises:
        DatasetError: If there is no such file, or it is empty.
    """
    places = [Path(split), *(place / split for place in _places(folder, _SPLITS))]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise DatasetError(
            f"reading PASCAL-Part: no {split} in VOCdevkit/{_SPLITS[1]} in {folder} or next to it; "
            "give --split the path of a file with the names of the images, one per line"
        )
    names = [line.split()[0] for line in found.read_text("utf-8").splitlines() if line.strip()]
    if not names:
        raise DatasetError(f"reading PASCAL-Part: {found} is empty; expected names of images")
    return names


def _places(folder: Path, below: tuple[str, ...]) -> list[Path]:
    return [base / path for base in (folder, folder.absolute().parent) for path in below]


def convert(folder: Path, names: Iterable[str]) -> tuple[dict[str, Any], list[Rejected]]:
    """Read the MATLAB files of some images.

    Args:
        folder: Folder of the files.
        names: Names of images, such as "2008_000002".

    Returns:
        A document in COCO's format, and the images and parts that could not be read. Images
        without a part of the categories are not in the document.

    Raises:
        ConfigError: If scipy is not installed.
    """
    _require_scipy()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rejected: list[Rejected] = []
    for name in names:
        try:
            number = _image_number(name)
            found = _read_parts(folder / f"{name}.mat", rejected)
        except ValueError as error:
            rejected.append(Rejected(f"image {name}", one_line(error)))
            continue
        for category, mask in found:
            entry = {"id": len(annotations), "image_id": number, "category_id": category}
            annotations.append(entry | _annotation(mask))
        if found:
            height, width = found[0][1].shape
            images.append(
                {"id": number, "file_name": f"{name}.jpg", "height": height, "width": width}
            )
    return {"categories": categories(), "images": images, "annotations": annotations}, rejected


def _require_scipy() -> None:
    try:
        import scipy.io  # noqa: F401
    except ImportError:
        raise ConfigError(
            "converting PASCAL-Part: reading MATLAB files needs scipy, which is not installed; "
            "run `pip install 'lens-cache[pascal]'`"
        ) from None


def _image_number(name: str) -> int:
    """Return VLPart's id of an image: year and number concatenated."""
    year, dash, number = name.partition("_")
    if not (dash and len(year) == 4 and (year + number).isascii() and (year + number).isdigit()):
        raise ValueError("expected a name like 2008_000002")
    return int(year + number)


def _read_parts(path: Path, rejected: list[Rejected]) -> list[tuple[int, NDArray[np.bool_]]]:
    """Return the category and mask, shape (H, W), of every part of an image that has a category."""
    numbers = {entry["name"]: entry["id"] for entry in categories()}
    found: list[tuple[int, NDArray[np.bool_]]] = []
    for thing, part, mask in _raw_parts(path):
        name = _category(thing, part)
        if name is None:
            continue
        if mask.ndim != 2 or not mask.any() or (found and mask.shape != found[0][1].shape):
            reason = f"its mask is empty or of another shape than the others: {mask.shape}"
            rejected.append(Rejected(f"{path.name}: {thing}, {part}", reason))
            continue
        found.append((numbers[name], mask))
    return found


def _raw_parts(path: Path) -> list[tuple[str, str, NDArray[np.bool_]]]:
    """Return (object, part, mask) of every part in a MATLAB file."""
    from scipy.io import loadmat

    try:
        objects = loadmat(str(path), variable_names=["anno"])["anno"][0, 0]["objects"]
        return [
            (str(thing["class"][0]), str(part["part_name"][0]), np.asarray(part["mask"]) > 0)
            for thing in objects.ravel()
            for part in thing["parts"].ravel()
        ]
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except MemoryError:
        raise
    except Exception as error:  # a file with another struct fails in many ways
        kind = type(error).__name__
        reason = one_line(error, 100)
        raise ValueError(f"{path} is not a file of PASCAL-Part ({kind}: {reason})") from None


def _category(thing: str, part: str) -> str | None:
    """Return the category of a part by its name in the MATLAB files; None if it has none."""
    known = _OBJECTS.get(thing, thing)
    for word in _PARTS[known].split(", ") if known in _PARTS else ():
        if _SPELLINGS.get(word, word) in part:
            return f"{known}:{word}"
    return None


def _annotation(mask: NDArray[np.bool_]) -> dict[str, Any]:
    rows, columns = np.nonzero(mask)
    left, top = float(columns.min()), float(rows.min())
    width, height = float(columns.max()) - left, float(rows.max()) - top
    return {
        "segmentation": dict(masks.encode(mask)),
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": 0,
    }
