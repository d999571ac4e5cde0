"""COCO-Stuff: things and stuff on the images of COCO 2017.

    cocostuff/{train2017,val2017}/000000000009.png
    coco/{train2017,val2017}/000000000009.jpg

The value of a pixel is the id of its class minus one, 0 to 181; 255 is unlabelled. Classes with a
hyphen in their name ("food-other", "floor-wood") are skipped, as in LISA: half of them overlap with
other classes ("door", "door-stuff"). LISA lists the files in the order of the file system; here
they are sorted.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from lens_cache.config.data import Rules
from lens_cache.datasets.base import SegmentationDataset
from lens_cache.datasets.lisa.files import stems
from lens_cache.datasets.lisa.label_maps import LabelFiles, LabelMapSet, LabelTable, class_list
from lens_cache.datasets.lisa.sets import SetKind, SetName, require_files
from lens_cache.datasets.questions import clean_class_name

_MAPS = (
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip"
)
_SOURCE = (
    f"unpack {_MAPS} into cocostuff and http://images.cocodataset.org/zips/train2017.zip "
    "(val2017.zip) into coco"
)
_FIX = f"take the maps of things and stuff, not those of stuff alone: {_MAPS}"


def open_cocostuff(root: Path, name: SetName, rules: Rules) -> SegmentationDataset:
    """Open a split of COCO-Stuff; see ``sets.Opener``."""
    images = PurePosixPath("coco", f"{name.split}2017")
    labels = PurePosixPath("cocostuff", f"{name.split}2017")
    require_files(root, name, [str(labels), str(images)], _SOURCE)
    found = stems(root / labels, ".png")
    if not found:
        require_files(root, name, [f"{labels}/*.png"], _SOURCE)
    names = {number - 1: text for number, text in class_list("cocostuff").items()}
    classes = {value: text for value, text in names.items() if "-" not in text}
    ignored = [255, *(names.keys() - classes.keys())]
    if rules == "strict":
        classes = {value: clean_class_name(text) for value, text in classes.items()}
    table = LabelTable.of(classes, ignored, _FIX)
    return LabelMapSet(root, name, LabelFiles(images, labels, found, labels), table, rules)


COCOSTUFF = SetKind(group="semantic", splits=("train", "val"), open=open_cocostuff, source=_SOURCE)
