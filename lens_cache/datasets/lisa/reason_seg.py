"""ReasonSeg: an image, one thing or several in it, and questions that mean them without saying so.

    root/reason_seg/ReasonSeg/{train,val,test}/NAME.jpg and NAME.json

A JSON file has ``text`` (several ways to ask for the same), ``is_sentence`` (whether they are
sentences or phrases) and ``shapes``: outlines labelled "target", "ignore" or "flag", which means
nothing. In ``train`` every text is a query, in ``val`` and ``test`` the first one alone, as LISA
does. Images come in the order of their names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lens_cache.config.data import Rules
from lens_cache.datasets.base import ImageRecord, Length, QueryRecord, Rejected, brief, is_text
from lens_cache.datasets.lisa.sets import SetKind, SetName, require_files
from lens_cache.errors import LensCacheError, one_line
from lens_cache.images import masks
from lens_cache.images.decode import image_size

_FOLDER = PurePosixPath("reason_seg/ReasonSeg")
_SOURCE = (
    "get ReasonSeg through the README of dvlab-research/LISA (copies that have masks in place of "
    "outlines lack is_sentence and what is ignored)"
)


class ReasonSegDataset:
    """One split of ReasonSeg; see the module.

    Attributes:
        name: ``reason_seg``.
        source: The split's folder.
        rejected: Nothing: every file belongs to an image.
    """

    rejected: tuple[Rejected, ...] = ()

    def __init__(self, root: Path, name: SetName, rules: Rules) -> None:
        """List the images.

        Raises:
            MissingSetError: If the split's folder is not there, or no image in it.
        """
        self.name, self.source = name.name, _FOLDER / name.split
        require_files(root, name, [self.source.as_posix()], _SOURCE)
        self._root, self._split, self._rules = root, name.split, rules
        self._names = sorted(path.name for path in (root / self.source).glob("*.jpg"))
        if not self._names:
            require_files(root, name, [f"{self.source}/*.jpg"], _SOURCE)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self[index] for index in range(len(self)))

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
        """Return the texts with their mask; raise ValueError with the reason if there are none."""
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
        target, ignore = masks.encode(labels == TARGET), masks.encode(labels == IGNORED)
        if training and self._rules == "strict" and not masks.area(target):
            raise ValueError("there is nothing to train on, no pixel is target")
        # LISA trains as if what is ignored were background, and leaves it out of its benchmark.
        counts_all = not masks.area(ignore) or (training and self._rules == "parity")
        length: Length = "long" if sentence else "short"
        words = [text.strip() for text in texts]
        if training and not sentence:
            words = [text.lower() for text in words]  # LISA's benchmark leaves them as they are
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
    """Read a JSON file; some are in the code page of Windows."""
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


TARGET, IGNORED = 1, 255
# Drawing costs time in the length of an outline, so a point may not lie absurdly far away.
_FARTHEST = 10.0


def label_map(shapes: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Draw the shapes of one image, the largest first, each over those before it.

    A shape is the larger the more pixels it has inside the image. Of equal ones the last in the
    file comes first.

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
    """Draw the outline and what is in it; ``points`` has shape (N, 2), x before y."""
    cv2.polylines(canvas, [points], True, (value,), 1)
    cv2.fillPoly(canvas, [points], (value,))
    return canvas


def _read_shape(shape: Any, height: int, width: int) -> tuple[int, NDArray[np.int32]]:
    """Return what a shape stands for, 0 for nothing, and its points, shape (N, 2)."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str):
        raise ValueError(f"expected a shape with a label, got {brief(shape)}")
    if label.lower() == "flag":  # a remnant of how the set was made
        return 0, np.empty((0, 2), np.int32)
    points = shape.get("points")
    if not isinstance(points, list) or not points or not all(map(_is_point, points)):
        raise ValueError(f"expected points [[x, y], ...] of a shape, got {brief(points)}")
    limit = _FARTHEST * max(height, width)
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
