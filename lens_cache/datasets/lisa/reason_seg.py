"""ReasonSeg: images with questions that refer to things without naming them.

    root/reason_seg/ReasonSeg/{train,val,test}/NAME.jpg and NAME.json

A JSON file has ``text`` (several wordings with the same target), ``is_sentence`` (whether they are
sentences or phrases) and ``shapes``: outlines labelled "target", "ignore" or "flag" (not used). As
in LISA, every text is a query in ``train``, and only the first one in ``val`` and ``test``. Images
are sorted by name.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lens_cache.config.data import Rules
from lens_cache.datasets.base import (
    ImageRecord,
    Length,
    QueryRecord,
    Rejected,
    SegmentationDataset,
    brief,
    is_text,
)
from lens_cache.datasets.lisa.sets import SetKind, SetName, require_files
from lens_cache.datasets.mask_parsing import FARTHEST
from lens_cache.errors import LensCacheError, one_line
from lens_cache.images import masks
from lens_cache.images.decode import image_size

_FOLDER = PurePosixPath("reason_seg/ReasonSeg")
_SOURCE = (
    "get ReasonSeg through the README of dvlab-research/LISA (copies with masks instead of "
    "outlines lack is_sentence and the ignored regions)"
)


class ReasonSegDataset(SegmentationDataset):
    """One split of ReasonSeg; see the module docstring."""

    def __init__(self, root: Path, name: SetName, rules: Rules) -> None:
        """List the images.

        Raises:
            MissingSetError: If the split's folder is missing or has no image.
        """
        self.name = name.name
        self.source = _FOLDER / name.split
        require_files(root, name, [self.source.as_posix()], _SOURCE)
        self._root = root
        self._split = name.split
        self._rules = rules
        self._names = sorted(path.name for path in (root / self.source).glob("*.jpg"))
        if not self._names:
            require_files(root, name, [f"{self.source}/*.jpg"], _SOURCE)

    @property
    def listing(self) -> tuple[PurePosixPath, ...]:
        """The notes beside the images."""
        return tuple((self.source / name).with_suffix(".json") for name in self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> ImageRecord:
        path = self.source / self._names[index]
        notes = path.with_suffix(".json")
        queries: tuple[QueryRecord, ...] = ()
        rejected: tuple[Rejected, ...] = ()
        try:
            queries = self._queries(path, _read_notes(self._root / notes))
        except ValueError as error:
            rejected = (Rejected(f"its notes {notes.name}", one_line(error)),)
        return ImageRecord(path, self.name, queries, rejected)

    def _queries(self, path: PurePosixPath, notes: dict[str, Any]) -> tuple[QueryRecord, ...]:
        """Return one query per used text; raises ValueError with the reason if there are none."""
        texts, sentence = notes.get("text"), notes.get("is_sentence")
        if not isinstance(texts, list) or not texts or not all(map(is_text, texts)):
            raise ValueError(f"expected text to be a list of texts, got {brief(texts)}")
        if not isinstance(sentence, bool):
            raise ValueError(f"expected is_sentence to be true or false, got {brief(sentence)}")
        training = self._split == "train"
        try:
            width, height = image_size(self._root / path)
        except OSError as error:
            raise ValueError(f"its image: {error.strerror}") from None
        except LensCacheError as error:
            raise ValueError(f"its image: {error}") from None
        labels = label_map(notes.get("shapes"), height, width)
        target = masks.encode(labels == TARGET)
        ignore = masks.encode(labels == IGNORED)
        if training and self._rules == "strict" and not masks.area(target):
            raise ValueError("there is nothing to train on, no pixel is target")
        # LISA treats ignored pixels as background in training, and excludes them in evaluation.
        counts_all = not masks.area(ignore) or (training and self._rules == "parity")
        length: Length = "long" if sentence else "short"
        words = [text.strip() for text in texts]
        if training and not sentence:
            words = [text.lower() for text in words]  # LISA does so in training only
        return tuple(
            QueryRecord(
                instruction=text,
                kind="reasoning",
                length=length,
                split=self._split,
                target=target,
                ignore=None if counts_all else ignore,
                repeat=words[:position].count(text),
            )
            for position, text in enumerate(words if training else words[:1])
        )


def _read_notes(path: Path) -> dict[str, Any]:
    """Read a JSON file in UTF-8 or, as some are, in the Windows code page 1252."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            notes = json.loads(data.decode(encoding))
        except UnicodeDecodeError:
            continue
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not valid JSON: {error}") from None
        if not isinstance(notes, dict):
            raise ValueError(f"expected an object, got {brief(notes)}")
        return notes
    raise ValueError("neither UTF-8 nor cp1252 text")


KINDS = {
    "reason_seg": SetKind(
        group="reasoning",
        splits=("train", "val", "test"),
        open=ReasonSegDataset,
        source=_SOURCE,
    )
}


# Values of a label map; 0 is background.
TARGET = 1
IGNORED = 255


def label_map(shapes: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Draw the shapes of one image, the largest first; later ones overwrite earlier ones.

    The size of a shape is the number of its pixels inside the image. Of two equal ones, the later
    one in the file is drawn first.

    Args:
        shapes: List of {"label": text, "points": [[x, y], ...]}.
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        Shape (height, width): 0, ``TARGET`` or ``IGNORED``.

    Raises:
        ValueError: If they are malformed.
    """
    if not isinstance(shapes, list):
        raise ValueError(f"expected shapes to be a list, got {brief(shapes)}")
    labelled = [_read_shape(shape, height, width) for shape in shapes]
    drawn = [(value, points) for value, points in labelled if value]
    areas = [
        np.count_nonzero(_draw(np.zeros((height, width), np.uint8), points, 1))
        for _, points in drawn
    ]
    labels = np.zeros((height, width), np.uint8)
    for place in np.argsort(areas, kind="stable")[::-1]:
        value, points = drawn[place]
        _draw(labels, points, value)
    return labels


def _draw(canvas: NDArray[np.uint8], points: NDArray[np.int32], value: int) -> NDArray[np.uint8]:
    """Draw the outline and the inside of a polygon; ``points`` are (x, y), shape (N, 2)."""
    cv2.polylines(canvas, [points], True, (value,), 1)
    cv2.fillPoly(canvas, [points], (value,))
    return canvas


def _read_shape(shape: Any, height: int, width: int) -> tuple[int, NDArray[np.int32]]:
    """Return the value of a shape in the label map (0: skip it) and its points, shape (N, 2)."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str):
        raise ValueError(f"expected a shape with a label, got {brief(shape)}")
    if label.lower() == "flag":  # left from the annotation of the set
        return 0, np.empty((0, 2), np.int32)
    points = shape.get("points")
    if not isinstance(points, list) or not points or not all(map(_is_point, points)):
        raise ValueError(f"expected points [[x, y], ...] of a shape, got {brief(points)}")
    limit = FARTHEST * max(height, width)
    if not all(abs(number) <= limit for point in points for number in point):
        raise ValueError(f"a shape lies far outside the image: {brief(points)}")
    value = IGNORED if "ignore" in label.lower() else TARGET
    return value, np.array(points, dtype=np.int32)


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(n, int | float) and not isinstance(n, bool) for n in point)
    )
