"""Sets of label maps: one PNG per image, in which the value of a pixel is its class.

Every class of an image becomes one query; its target is the pixels with its values. A map is 8-bit
or 16-bit greyscale, or has palette indices; a colour image is rejected unless its channels are
equal.

=============  ==================================  =============================================
rules          ``parity`` (LISA's loaders)         ``strict``
=============  ==================================  =============================================
unlabelled     background of every class           in every query's ``ignore``
ADE20K         0 and 255 are unlabelled            the same
COCO-Stuff     255, and all 28 classes with a      the same
               hyphen ("wall-brick")
Mapillary      only 255; "unlabeled" and "ego      also classes that the set calls void or
               vehicle" are classes                "other", or does not evaluate
names          as in the class list                readable; classes of one name are one query
order          of the file system in COCO-Stuff    by file name, under both rules
another size   fails in training                   the image is skipped, under both rules
unknown value  IndexError                          the image is skipped, under both rules
=============  ==================================  =============================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lens_cache.assets import CLASSES
from lens_cache.config.data import Rules
from lens_cache.datasets.base import ImageRecord, QueryRecord, Rejected, SegmentationDataset
from lens_cache.datasets.lisa.files import image_shape
from lens_cache.datasets.lisa.sets import SetName
from lens_cache.errors import one_line
from lens_cache.images import masks
from lens_cache.images.masks import Rle

# Values of ``LabelTable.groups`` that are not indices of names.
_IGNORED = 254
_UNKNOWN = 255


@dataclass(frozen=True)
class LabelTable:
    """The classes of the values of a label map.

    Attributes:
        names: Class names, by ascending value.
        groups: For each value its index in ``names``, ``_IGNORED`` or ``_UNKNOWN``; uint8, shape
            (256,).
        fix: Advice for a map with unknown values, for messages.
    """

    names: tuple[str, ...]
    groups: NDArray[np.uint8]
    fix: str

    @classmethod
    def of(cls, classes: Mapping[int, str], ignored: Iterable[int], fix: str) -> LabelTable:
        """Build a table; classes with the same name are merged.

        Args:
            classes: Name by value, from 0 to 255, in ascending order.
            ignored: Values of unlabelled pixels and of skipped classes.
            fix: Advice for a map with unknown values, for messages.
        """
        groups = np.full(256, _UNKNOWN, dtype=np.uint8)
        groups[list(ignored)] = _IGNORED
        names = list(dict.fromkeys(classes.values()))
        for value, name in classes.items():
            groups[value] = names.index(name)
        return cls(tuple(names), groups, fix)

    def split(self, values: NDArray[np.integer[Any]]) -> tuple[dict[str, Rle], Rle | None]:
        """Return the mask of every name in a label map, and the mask of the ignored pixels.

        Args:
            values: Pixel values, shape (H, W).

        Raises:
            ValueError: If a value is unknown.
        """
        fits = values.max() < len(self.groups)
        regions = masks.split(values, self.groups) if fits else {}
        if not fits or _UNKNOWN in regions:
            present = np.unique(values).tolist()
            beyond = [n for n in present if n >= len(self.groups) or self.groups[n] == _UNKNOWN]
            found = ", ".join(map(str, beyond[:5])) + (", ..." if len(beyond) > 5 else "")
            raise ValueError(f"holds values that are no class: {found}; {self.fix}")
        ignored = regions.pop(_IGNORED, None)
        return {self.names[group]: rle for group, rle in regions.items()}, ignored


@dataclass(frozen=True)
class LabelFiles:
    """Folders of images and label maps, relative to LISA's root; pairs have the same stem."""

    images: PurePosixPath
    labels: PurePosixPath
    stems: list[str]
    source: PurePosixPath


class LabelMapSet(SegmentationDataset):
    """A set of label maps as a dataset; see the module docstring."""

    def __init__(
        self, root: Path, name: SetName, files: LabelFiles, table: LabelTable, rules: Rules
    ) -> None:
        self.name = name.name
        self.source = files.source
        self._root = root
        self._split = name.split
        self._files = files
        self._table = table
        self._rules = rules

    @property
    def mask_files(self) -> Iterator[PurePosixPath]:
        """The label maps."""
        return (self._files.labels / f"{stem}.png" for stem in self._files.stems)

    def __len__(self) -> int:
        return len(self._files.stems)

    def __getitem__(self, index: int) -> ImageRecord:
        stem = self._files.stems[index]
        image = self._files.images / f"{stem}.jpg"
        label = self._files.labels / f"{stem}.png"
        try:
            return ImageRecord(image, self.name, tuple(self._queries(image, label)), ())
        except ValueError as error:
            rejected = Rejected(f"label map {label}", one_line(error))
            return ImageRecord(image, self.name, (), (rejected,))

    def _queries(self, image: PurePosixPath, label: PurePosixPath) -> Iterator[QueryRecord]:
        height, width = image_shape(self._root, image)
        values = read_label_map(self._root / label)
        if values.shape != (height, width):
            found = f"is {values.shape[1]} x {values.shape[0]} pixels"
            raise ValueError(
                f"{found}, its image {image} {width} x {height}; take both from one release"
            )
        regions, ignored = self._table.split(values)
        if not regions:
            raise ValueError("every pixel is unlabelled, so there is nothing to ask for")
        for name, target in regions.items():
            yield QueryRecord(
                instruction=name,
                kind="class",
                length="short",
                split=self._split,
                target=target,
                ignore=ignored if self._rules == "strict" else None,
            )


def read_label_map(path: Path) -> NDArray[np.integer[Any]]:
    """Return the pixel values of a label map, shape (H, W).

    Raises:
        ValueError: If the file is missing, cannot be decoded, or is a colour image.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode = image.mode
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise ValueError("the file is missing; unpack the set's label maps again") from None
    except MemoryError:
        raise
    except Exception:  # Pillow raises many kinds of errors, some with addresses in their text
        raise ValueError("cannot be decoded as a PNG; unpack it again") from None
    if pixels.ndim == 3:
        colours = pixels[..., : 1 if mode == "LA" else 3]
        if (colours != colours[..., :1]).any():
            raise ValueError(
                f"is a picture in colours ({mode}), expected one class per pixel; take the set's "
                "label maps, not a drawing of them"
            )
        pixels = colours[..., 0]
    return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels


def class_list(name: str) -> dict[int, str]:
    """Return class names by id, ascending from 1, from ``assets/classes/NAME.txt``."""
    lines = (CLASSES / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(": ", 1) for line in lines)
    return {int(number): text for number, text in pairs}
