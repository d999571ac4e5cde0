"""Mapillary Vistas, street scenes of several megapixels.

    mapillary/config_v2.0.json   (124 classes; config_v1.2.json: 66)
    mapillary/{training,validation}/v2.0/labels/KEY.png
    mapillary/{training,validation}/images/KEY.jpg

The value of a pixel is the index of its class in the configuration; 255 is unlabelled. LISA uses
every class. ``strict`` ignores classes that have no clear visual meaning:

* classes that the set calls void: "unlabeled", "static", "dynamic" and "ground" are regions that
  the annotator could not name; "ego vehicle" and "car mount" are parts of the camera car, which
  look like "car" and "pole";
* classes that the set's own evaluation skips: "ambiguous ..." and groups ("person group");
* "other ...": its meaning depends on the list of classes, not on the image.

Under ``strict``, names are reordered ("Signage - Store" becomes "store signage") and remarks in
parentheses are removed, so "Traffic Sign (Front)" and "Traffic Sign (Back)" become one class.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from lens_cache.config.data import Rules
from lens_cache.datasets.base import SegmentationDataset, brief, is_text
from lens_cache.datasets.lisa.files import stems
from lens_cache.datasets.lisa.label_maps import LabelFiles, LabelMapSet, LabelTable
from lens_cache.datasets.lisa.sets import SetKind, SetName, require_files
from lens_cache.datasets.questions import clean_class_name
from lens_cache.errors import DatasetError

_SOURCE = "get Mapillary Vistas v2.0 from https://www.mapillary.com/dataset/vistas"
_OTHER = re.compile(r"\bother\b", re.IGNORECASE)
_FOLDERS = {"train": "training", "val": "validation"}
# A typing error of the set ("test" for "text"), and names that need more than reordering.
_READABLE = {
    "lane marking - test": "text lane marking",
    "lane marking - general": "lane marking",
    "traffic light - general": "traffic light",
    "on rails": "rail vehicle",
    "wheeled slow": "slow wheeled vehicle",
}


def open_mapillary(root: Path, name: SetName, rules: Rules) -> SegmentationDataset:
    """Open a split of Mapillary Vistas; see ``sets.Opener``."""
    folder = PurePosixPath("mapillary", _FOLDERS[name.split])
    images = folder / "images"
    labels = folder / name.variant / "labels"
    config = PurePosixPath("mapillary", f"config_{name.variant}.json")
    require_files(root, name, map(str, (config, labels, images)), _SOURCE)
    found = stems(root / labels, ".png")
    if not found:
        require_files(root, name, [f"{labels}/*.png"], _SOURCE)
    fix = f"the values must be places in {config}; take both from one release: {_SOURCE}"
    table = _table(_read_labels(root / config), rules, fix)
    return LabelMapSet(root, name, LabelFiles(images, labels, found, labels), table, rules)


def readable_name(text: str) -> str:
    """Return the name of a class as readable words."""
    plain = clean_class_name(text)
    if plain in _READABLE:
        return _READABLE[plain]
    group, dash, rest = plain.partition(" - ")
    return f"{rest} {group}" if dash else plain


def _table(labels: list[dict[str, Any]], rules: Rules, fix: str) -> LabelTable:
    if rules == "parity":
        names = {value: label["readable"].lower() for value, label in enumerate(labels)}
    else:
        names = {
            value: readable_name(label["readable"])
            for value, label in enumerate(labels)
            if _is_a_class(label)
        }
    return LabelTable.of(names, [255, *(set(range(len(labels))) - names.keys())], fix)


def _is_a_class(label: dict[str, Any]) -> bool:
    void = label["name"].startswith("void--")
    return bool(label["evaluate"]) and not void and not _OTHER.search(label["readable"])


def _read_labels(path: Path) -> list[dict[str, Any]]:
    """Return the classes of a configuration file; the index of a class is its pixel value."""
    try:
        labels = json.loads(path.read_bytes())["labels"]
        if not isinstance(labels, list) or not 0 < len(labels) < 255:
            raise ValueError(f"expected a list of up to 254 labels, got {brief(labels)}")
        for label in labels:
            if not all(is_text(label[key]) for key in ("readable", "name")) or (
                type(label["evaluate"]) is not bool
            ):
                raise ValueError(f"a label needs readable, name and evaluate, got {brief(label)}")
    except OSError as error:
        raise DatasetError(f"reading {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"reading {path}: not a configuration of Mapillary Vistas "
            f"({type(error).__name__}: {error}); {_SOURCE}"
        ) from None
    return labels


MAPILLARY = SetKind(
    group="semantic",
    splits=("train", "val"),
    variants=("v2.0", "v1.2"),
    open=open_mapillary,
    source=_SOURCE,
)
