"""The interface of a dataset: a sequence of images, each with its instructions and masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeGuard

from lens_cache.config.data import DataConfig
from lens_cache.errors import DatasetError
from lens_cache.images.masks import Rle

Kind = Literal["class", "referring", "plural", "reasoning"]
Length = Literal["short", "long"]


@dataclass(frozen=True)
class QueryRecord:
    """One instruction about one image.

    Attributes:
        instruction: The dataset's own words, such as "the orange".
        kind: Kind of the instruction.
        length: ``long`` if the instruction is a complete sentence.
        split: The dataset's split, such as ``train2017``.
        target: Mask of the instruction, in the size of the image after EXIF orientation.
        ignore: Pixels that are excluded from loss and metrics; same size. None if there are none.
        topic: A finer kind, for tables; may be empty.
        alternatives: Other wordings of ``instruction``; planning draws one wording.
        question: The complete question for the multimodal LLM, if the dataset has one; otherwise
            planning makes it from the instruction.
        repeat: Number of equal queries before this one. Benchmarks count sentences, and two
            annotators may write the same sentence, so both are kept. Queries that are equal in
            every attribute, including ``repeat``, become one.
    """

    instruction: str
    kind: Kind
    length: Length
    split: str
    target: Rle
    ignore: Rle | None
    topic: str = ""
    alternatives: tuple[str, ...] = ()
    question: str = ""
    repeat: int = 0


@dataclass(frozen=True)
class Rejected:
    """An entry of a dataset that gives no query: its name and the reason.

    Planning stores both in the quarantine table, which is part of the plan's digest. If the data of
    a store has moved, the digest is compared with that of a new plan, so a reason must not be
    reworded.
    """

    what: str
    reason: str


@dataclass(frozen=True)
class ImageRecord:
    """An image with its queries.

    Attributes:
        path: The file, relative to the dataset's root, with forward slashes.
        dataset: Name of the dataset.
        queries: Usable queries.
        rejected: Entries about this image that are not usable.
    """

    path: PurePosixPath
    dataset: str
    queries: tuple[QueryRecord, ...]
    rejected: tuple[Rejected, ...]


class SegmentationDataset(ABC):
    """A sequence of image records in a fixed order.

    Records are built on access; ``__getitem__`` must be safe to call from several threads.

    Attributes:
        name: Name of the dataset, as stored in the plan.
        source: The file or folder that lists the images, relative to the root.
        rejected: Entries of ``source`` that belong to no image.
    """

    name: str
    source: PurePosixPath
    rejected: tuple[Rejected, ...] = ()

    @property
    def listing(self) -> tuple[PurePosixPath, ...]:
        """The files that list images and instructions, relative to the root; not all need exist.

        A plan keeps their checksums, so that a later change of the data is noticed.
        """
        return (self.source,)

    @property
    def mask_files(self) -> Iterable[PurePosixPath]:
        """The files of masks that records are made of, relative to the root; not all need exist.

        A plan keeps what their folders hold, so that a later change of the data is noticed.
        """
        return ()

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> ImageRecord:
        """Return the record of one image; bad annotations are in ``rejected``, they do not raise.

        Raises:
            DatasetError: If the record cannot be read at all.
        """

    def __iter__(self) -> Iterator[ImageRecord]:
        """Yield all records in order."""
        return (self[index] for index in range(len(self)))


def dataset_root(config: DataConfig) -> Path:
    """Return the dataset's folder.

    Raises:
        DatasetError: If it is not set or does not exist.
    """
    if config.root is None:
        raise DatasetError(
            f"opening the {config.kind} dataset: data.root is not set; give its folder with "
            "--set data.root=FOLDER"
        )
    if not config.root.is_dir():
        raise DatasetError(
            f"opening the {config.kind} dataset: data.root={config.root} is not a folder"
        )
    return config.root


def relative_path(value: Any) -> PurePosixPath:
    """Check a path given by a dataset; it must stay inside the dataset's root.

    Raises:
        ValueError: If it is not a string, is empty or absolute, or contains "..".
    """
    if not is_text(value) or "\0" in value:
        raise ValueError(f"expected a path relative to the root, got {brief(value)}")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"the path {brief(value)} leads outside the root")
    return path


def is_text(value: Any) -> TypeGuard[str]:
    """Return whether a JSON value is a string that is not blank and can be encoded as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def brief(value: Any, limit: int = 60) -> str:
    """Return ``repr(value)`` for a message, cut to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
