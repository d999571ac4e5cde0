"""One image and one query of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from lens_cache.masks import Rle


@dataclass(frozen=True)
class PlannedImage:
    """One picture; several files if the same content lies under several paths.

    Attributes:
        index: Its position in the plan and in every array of the store.
        image_id: Hash of the file's content.
        path: The first of ``paths``.
        paths: Files relative to the dataset's root.
        width: In pixels, after EXIF orientation.
        height: In pixels, after EXIF orientation.
        datasets: The datasets it belongs to.
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
    """One question about one image; ``size`` is the image's (height, width).

    ``target_counts`` and ``ignore_counts`` are COCO run-length encodings, ``ignore_counts`` is
    None if every pixel counts.
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
        """Return the mask of the pixels that count neither way."""
        if self.ignore_counts is None:
            return None
        return Rle(size=list(self.size), counts=self.ignore_counts)
