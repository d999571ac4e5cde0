"""ADE20K, the 150 classes of the scene parsing challenge.

    ade20k/images/{training,validation}/ADE_train_00000001.jpg
    ade20k/annotations/{training,validation}/ADE_train_00000001.png

The value of a pixel is its class, 1 to 150. 0 is unlabelled, and so is 255: LISA's arithmetic on
bytes turns 0 into 255.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from lens_cache.config.data import Rules
from lens_cache.datasets.base import SegmentationDataset
from lens_cache.datasets.lisa.files import stems
from lens_cache.datasets.lisa.label_maps import LabelFiles, LabelMapSet, LabelTable, class_list
from lens_cache.datasets.lisa.sets import SetKind, SetName, require_files
from lens_cache.datasets.questions import clean_class_name

_SOURCE = (
    "unpack http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip there and "
    "rename its folder to ade20k"
)
_FIX = (
    "the set is the challenge's release with 150 classes, not the full ADE20K with its thousands; "
    + _SOURCE
)
_FOLDERS = {"train": "training", "val": "validation"}


def open_ade20k(root: Path, name: SetName, rules: Rules) -> SegmentationDataset:
    """Open a split of ADE20K; see ``sets.Opener``."""
    images = PurePosixPath("ade20k/images", _FOLDERS[name.split])
    labels = PurePosixPath("ade20k/annotations", _FOLDERS[name.split])
    require_files(root, name, [str(images), str(labels)], _SOURCE)
    found = stems(root / images, ".jpg")
    if not found:
        require_files(root, name, [f"{images}/*.jpg"], _SOURCE)
    classes = class_list("ade20k")
    if rules == "strict":
        classes = {value: clean_class_name(text) for value, text in classes.items()}
    table = LabelTable.of(classes, [0, 255], _FIX)
    return LabelMapSet(root, name, LabelFiles(images, labels, found, images), table, rules)


ADE20K = SetKind(group="semantic", splits=("train", "val"), open=open_ade20k, source=_SOURCE)
