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

from lens_cache import masks
from lens_cache.data_config import Rules
from lens_cache.datasets.base import ImageRecord, Length, QueryRecord, Rejected, brief, is_text
from lens_cache.datasets.lisa.reason_seg_masks import IGNORED, TARGET, label_map
from lens_cache.datasets.lisa.sets import SetKind, SetName, require_files
from lens_cache.errors import LensCacheError, one_line
from lens_cache.images import image_size

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
