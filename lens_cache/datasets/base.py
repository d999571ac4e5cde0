"""What a dataset is to the rest of the package: images, each with its instructions and masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol, TypeGuard

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
        kind: What sort of instruction it is.
        length: ``long`` if the instruction is a sentence that stands on its own.
        split: The dataset's split, such as ``train2017``.
        target: What the instruction means; size of the image after EXIF orientation.
        ignore: Pixels that count neither way, if any; same size.
        topic: A finer kind, for tables; may be empty.
        alternatives: Other ways to say ``instruction``; planning draws one of them all.
        question: What the multimodal LLM is asked, where that is decided already; else planning
            makes it from the instruction.
        repeat: How many equal queries come before it. Benchmarks count sentences, and two people
            may have written the same one, so these stay apart; equal queries of equal ``repeat``
            are one.
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
    """Something in a dataset that became no query: what it is, and why."""

    what: str
    reason: str


@dataclass(frozen=True)
class ImageRecord:
    """An image and everything the dataset says about it.

    Attributes:
        path: The file, relative to the dataset's root, with forward slashes.
        dataset: Name of the dataset.
        queries: What can be asked.
        rejected: What was meant to be asked but is not usable.
    """

    path: PurePosixPath
    dataset: str
    queries: tuple[QueryRecord, ...]
    rejected: tuple[Rejected, ...]


class SegmentationDataset(Protocol):
    """A sequence of image records in a fixed order.

    Records are built when asked for; ``__getitem__`` may be called from several threads.
    """

    @property
    def name(self) -> str:
        """Name of the dataset, as it stands in the plan."""
        ...

    @property
    def source(self) -> PurePosixPath:
        """The file that lists the images, relative to the root."""
        ...

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """Entries of ``source`` that belong to no image."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int) -> ImageRecord:
        """Return the record of one image; bad annotations are in it, they do not raise."""
        ...

    def __iter__(self) -> Iterator[ImageRecord]:
        """Return all records in order."""
        ...


def dataset_root(config: DataConfig) -> Path:
    """Return the dataset's folder.

    Raises:
        DatasetError: If it is not set or not there.
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
    """Check a path that a dataset states; it must stay inside the dataset's root.

    Raises:
        ValueError: If it is not a text, empty, absolute or leads outside with "..".
    """
    if not is_text(value) or "\0" in value:
        raise ValueError(f"expected a path relative to the root, got {brief(value)}")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"the path {brief(value)} leads outside the root")
    return path


def is_text(value: Any) -> TypeGuard[str]:
    """Tell whether a value from JSON is a text with something in it, fit to be stored as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def brief(value: Any, limit: int = 60) -> str:
    """Return a value for a message, cut to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
