"""An image and a query of a plan as objects: one row of its tables each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from lens_cache.images.masks import Rle


@dataclass(frozen=True)
class PlannedImage:
    """One image; it has several paths if several files have the same content.

    Attributes:
        index: Its position in the plan and in every array of the store.
        image_id: Hash of the file's content.
        path: The first of ``paths``.
        paths: Files, relative to the dataset's root.
        width: Width in pixels, after EXIF orientation.
        height: Height in pixels, after EXIF orientation.
        datasets: Names of the datasets that contain it.
    """

    index: int
    image_id: str
    path: PurePosixPath
    paths: tuple[PurePosixPath, ...]
    width: int
    height: int
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class PlannedQuery:
    """One query; see ``QueryRecord`` for the fields that come from the dataset.

    Attributes:
        query_id: Hash of the query's content.
        image_index: Index of its image in the plan.
        size: (height, width) of the image in pixels, after EXIF orientation.
        target_counts: Target mask, ``counts`` of a COCO run-length encoding.
        ignore_counts: Mask of ignored pixels in the same form; None if no pixel is ignored.
    """

    query_id: str
    image_index: int
    image_id: str
    dataset: str
    split: str
    instruction: str
    question: str
    kind: str
    length: str
    topic: str
    size: tuple[int, int]
    target_counts: str
    ignore_counts: str | None

    def target(self) -> Rle:
        """Return the target mask."""
        return Rle(size=list(self.size), counts=self.target_counts)

    def ignore(self) -> Rle | None:
        """Return the mask of the ignored pixels; None if no pixel is ignored."""
        if self.ignore_counts is None:
            return None
        return Rle(size=list(self.size), counts=self.ignore_counts)
