"""Sets with objects and their parts, in COCO's format: PACO-LVIS and PASCAL-Part.

    vlpart/paco/annotations/paco_lvis_v1_{train,val}.json
    coco/FILE_NAME   (file_name begins with train2017/ or val2017/)

    vlpart/pascal_part/{train,val}.json
    vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages/FILE_NAME

A category is "object" or "object:part"; the instruction of a part is "mug handle" or "the handle of
the mug". The size of an image is read from the image file, because converters have written wrong
sizes for PASCAL-Part; a mask of another size is rejected.

=================  ================================  ===============================================
rules              ``parity`` (LISA's loaders)       ``strict``
=================  ================================  ===============================================
queries            one per annotation: the same      one per class, since the class name does not
                   words with different masks        select one of the things; the target is the
                                                     union of the annotations of the class
undivided objects  background of their parts         ignored for parts: PACO annotates the parts
                                                     of some mugs of an image but not of others
not exhaustive     used                              skipped: classes that PACO marks as not
                                                     exhaustively annotated in an image
crowds             like other annotations            ignored for their class
empty masks        kept                              rejected
names              without "_(...)" but with         readable words
                   underscores
=================  ================================  ===============================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lens_cache.config.data import Rules
from lens_cache.datasets.base import ImageRecord, Rejected, SegmentationDataset
from lens_cache.datasets.coco import LISTS, category_names
from lens_cache.datasets.json_files import read_lists
from lens_cache.datasets.lisa.files import image_shape
from lens_cache.datasets.lisa.part_index import PartImage, index_images
from lens_cache.datasets.lisa.part_queries import Part, class_queries, each_annotation, part_of
from lens_cache.datasets.lisa.sets import SetKind, SetName, require_files
from lens_cache.errors import DatasetError, one_line

_PACO_SOURCE = (
    "unpack https://dl.fbaipublicfiles.com/paco/annotations/paco_lvis_v1.zip into "
    "vlpart/paco/annotations, and train2017.zip and val2017.zip of "
    "http://images.cocodataset.org/zips into coco"
)
_PASCAL_SOURCE = (
    "unpack http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar and "
    "http://roozbehm.info/pascal-parts/trainval.tar.gz into vlpart/pascal_part, and make the file "
    "with lens-cache data pascal-part"
)


@dataclass(frozen=True)
class _Layout:
    """Paths of a set, relative to LISA's root."""

    annotations: str
    images: PurePosixPath
    parts_only: bool
    source: str


_PACO = _Layout(
    "vlpart/paco/annotations/paco_lvis_v1_{}.json", PurePosixPath("coco"), False, _PACO_SOURCE
)
_PASCAL = _Layout(
    "vlpart/pascal_part/{}.json",
    PurePosixPath("vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"),
    True,
    _PASCAL_SOURCE,
)


class PartsSet(SegmentationDataset):
    """A set of objects and parts as a dataset; see the module docstring."""

    def __init__(
        self,
        root: Path,
        name: SetName,
        rules: Rules,
        *,
        source: PurePosixPath,
        classes: Mapping[int, Part],
        images: list[PartImage],
        rejected: tuple[Rejected, ...],
    ) -> None:
        self.name = name.name
        self.source = source
        self.rejected = rejected
        self._root = root
        self._split = name.split
        self._rules = rules
        self._classes = classes
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ImageRecord:
        image = self._images[index]
        if not image.annotations:
            return ImageRecord(image.path, self.name, (), ())
        build = class_queries if self._rules == "strict" else each_annotation
        try:
            shape = image_shape(self._root, image.path)
        except ValueError as error:
            what = f"{len(image.annotations)} annotations"
            rejected = [Rejected(what, one_line(error))]
            return ImageRecord(image.path, self.name, (), tuple(rejected))
        queries, rejected = build(image, shape, self._classes, self._split)
        return ImageRecord(image.path, self.name, tuple(queries), tuple(rejected))


def _open(root: Path, name: SetName, rules: Rules, layout: _Layout) -> SegmentationDataset:
    source = PurePosixPath(layout.annotations.format(name.split))
    require_files(root, name, map(str, (source, layout.images)), layout.source)
    document = read_lists(root / source, *LISTS)
    categories = category_names(document["categories"], root / source)
    try:
        classes = {
            number: part_of(text, rules, parts_only=layout.parts_only)
            for number, text in categories.items()
        }
    except ValueError as error:
        raise DatasetError(f"reading {root / source}: {error}; {layout.source}") from None
    images, rejected = index_images(document, layout.images)
    return PartsSet(
        root, name, rules, source=source, classes=classes, images=images, rejected=rejected
    )


def open_paco_lvis(root: Path, name: SetName, rules: Rules) -> SegmentationDataset:
    """Open a split of PACO-LVIS; see ``sets.Opener``."""
    return _open(root, name, rules, _PACO)


def open_pascal_part(root: Path, name: SetName, rules: Rules) -> SegmentationDataset:
    """Open a split of PASCAL-Part; see ``sets.Opener``."""
    return _open(root, name, rules, _PASCAL)


PACO_LVIS = SetKind(
    group="semantic", splits=("train", "val"), open=open_paco_lvis, source=_PACO_SOURCE
)
PASCAL_PART = SetKind(
    group="semantic", splits=("train", "val"), open=open_pascal_part, source=_PASCAL_SOURCE
)
