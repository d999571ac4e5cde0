"""A user's own data: one JSON object per line, in ``root/data.jsonl``.

    {"image": "images/a.jpg", "instruction": "the red cup", "mask": "masks/a.png"}
    {"image": "images/a.jpg", "instruction": "What can hold tea?", "mask": {"polygons": [[...]]}}
    {"image": "images/b.jpg", "instruction": "dog", "mask": {"rle": {"size": [4, 4], "counts": []}}}

"instruction" may be a list of texts with the same mask: each becomes a query. "mask" may be a list
of masks: their union is used. It may be null: nothing in the image is meant, and an empty mask is
right; a mask file without foreground is a mistake, and its line is rejected. Optional keys, with
their defaults: "split" ("train"), "ignore" (same forms as "mask"; its pixels are excluded from loss
and metrics), "kind" ("referring"), "length" ("long" if the instruction is a sentence, see
``questions.is_long``), "topic" (any text: a finer kind, for the tables of an evaluation). Masks
have the size of the image after EXIF orientation. Paths are relative to the root. A line that is
not valid is rejected with its number; the other lines are used.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import (
    ImageRecord,
    Kind,
    Length,
    QueryRecord,
    Rejected,
    SegmentationDataset,
    brief,
    dataset_root,
    is_text,
    relative_path,
)
from lens_cache.datasets.mask_parsing import (
    check_not_empty,
    mask_from_file,
    mask_from_polygons,
    mask_from_rle,
)
from lens_cache.datasets.questions import is_long
from lens_cache.errors import DatasetError, LensCacheError, one_line
from lens_cache.images import masks
from lens_cache.images.decode import image_size
from lens_cache.images.masks import Rle

_KEYS = ("image", "instruction", "mask", "split", "ignore", "kind", "length", "topic")


@dataclass(frozen=True)
class _Line:
    """A line with valid keys and types; its masks are read on access."""

    number: int
    image: PurePosixPath
    instructions: tuple[str, ...]
    split: str
    kind: Kind
    length: Length | None
    topic: str
    mask: list[Any]
    ignore: list[Any]


class JsonlDataset(SegmentationDataset):
    """The images of a JSONL file, in the order of first occurrence; see the module docstring.

    Raises:
        DatasetError: If the file is missing, empty, has no line of the split, or no usable line.
    """

    name = "jsonl"

    def __init__(self, config: DataConfig) -> None:
        self._root = dataset_root(config)
        self.source = PurePosixPath(config.file)
        lines, self.rejected = _read_lines(self._root / config.file)
        if config.split:
            splits = sorted({line.split for line in lines})
            lines = [line for line in lines if line.split == config.split]
            if not lines:
                raise DatasetError(
                    f"reading {self._root / config.file}: no line of split {config.split!r}; "
                    f"splits found: {', '.join(splits)}"
                )
        groups: dict[PurePosixPath, list[_Line]] = {}
        for line in lines:
            groups.setdefault(line.image, []).append(line)
        self._groups = list(groups.values())[: config.limit]

    @property
    def mask_files(self) -> Iterator[PurePosixPath]:
        """The files of masks and of ignored pixels."""
        for group in self._groups:
            for line in group:
                parts = (*line.mask, *line.ignore)
                yield from (part for part in parts if isinstance(part, PurePosixPath))

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> ImageRecord:
        queries: list[QueryRecord] = []
        rejected: list[Rejected] = []
        group = self._groups[index]
        for line in group:
            try:
                queries += _build_queries(self._root, line)
            except ValueError as error:
                rejected.append(Rejected(f"line {line.number}", one_line(error)))
        return ImageRecord(group[0].image, self.name, tuple(queries), tuple(rejected))


def _read_lines(path: Path) -> tuple[list[_Line], tuple[Rejected, ...]]:
    """Return the valid lines and the rejected ones; blank lines are counted but skipped."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"reading {path}: {error.strerror}; expected a file with one JSON object per line "
            "(data.file)"
        ) from None
    lines: list[_Line] = []
    rejected: list[Rejected] = []
    for number, text in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            lines.append(_parse_line(number, text))
        except ValueError as error:
            rejected.append(Rejected(f"line {number}", one_line(error)))
    if not lines and not rejected:
        raise DatasetError(f"reading {path}: the file is empty; expected one JSON object per line")
    if not lines:
        raise DatasetError(
            f"reading {path}: none of {len(rejected)} lines is usable; "
            f"{rejected[0].what}: {rejected[0].reason}"
        )
    return lines, tuple(rejected)


def _parse_line(number: int, text: bytes) -> _Line:
    """Check the keys and types of one line; raises ValueError with the reason."""
    try:
        entry = json.loads(text.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except (json.JSONDecodeError, RecursionError) as error:
        detail = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise ValueError(f"not valid JSON: {detail}") from None
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object, got {brief(entry)}")
    unknown = [key for key in entry if key not in _KEYS]
    if unknown:
        raise ValueError(f"unknown key {brief(unknown[0])}; known are {', '.join(_KEYS)}")
    missing = [key for key in _KEYS[:3] if key not in entry]
    if missing:
        raise ValueError(f"the key {missing[0]!r} is missing")
    texts = entry["instruction"]
    texts = texts if isinstance(texts, list) and texts else [texts]
    return _Line(
        number=number,
        image=relative_path(entry["image"]),
        instructions=tuple(_text({"instruction": text}, "instruction") for text in texts),
        split=_text(entry, "split", "train"),
        kind=_choice(entry, "kind", "referring", get_args(Kind)),
        length=_choice(entry, "length", "short", get_args(Length)) if "length" in entry else None,
        topic="" if entry.get("topic", "") == "" else _text(entry, "topic"),
        mask=[] if entry["mask"] is None else _check_forms("mask", entry["mask"]),
        ignore=_check_forms("ignore", entry["ignore"]) if "ignore" in entry else [],
    )


def _text(entry: dict[str, Any], key: str, default: str = "") -> str:
    value = entry.get(key, default)
    if not is_text(value):
        raise ValueError(f"{key!r} must be a text that is not empty, got {brief(value)}")
    return value.strip()


def _choice(entry: dict[str, Any], key: str, default: str, allowed: tuple[str, ...]) -> Any:
    value = entry.get(key, default)
    if value not in allowed:
        raise ValueError(f"{key!r} must be one of {', '.join(allowed)}, got {brief(value)}")
    return value


def _check_forms(key: str, value: Any) -> list[Any]:
    """Return the parts of a mask; only their form is checked, the content is read later."""
    parts = value if isinstance(value, list) and value else [value]
    return [_check_form(key, part) for part in parts]


def _check_form(key: str, value: Any) -> Any:
    """Check which of the three forms a mask has."""
    if isinstance(value, str):
        return relative_path(value)
    if isinstance(value, dict) and len(value) == 1 and set(value) <= {"polygons", "rle"}:
        return value
    raise ValueError(
        f'{key!r} must be a path, {{"polygons": ...}} or {{"rle": ...}}, got {brief(value)}'
    )


def _build_queries(root: Path, line: _Line) -> list[QueryRecord]:
    """Read the masks of a line; raises ValueError with the reason."""
    if line.mask:
        target = masks.merge([_read_mask(root, line, "mask", part) for part in line.mask])
        check_not_empty(target)
    else:
        width, height = _image_size(root, line)
        target = masks.empty(height, width)
    ignored = [_read_mask(root, line, "ignore", part) for part in line.ignore]
    ignore = masks.merge(ignored) if ignored else None
    if ignore is not None and ignore["size"] != target["size"]:
        raise ValueError("'mask' and 'ignore' differ in size")
    return [
        QueryRecord(
            instruction=text,
            kind=line.kind,
            length=line.length or ("long" if is_long(text) else "short"),
            split=line.split,
            target=target,
            ignore=ignore if ignore is not None and masks.area(ignore) else None,
            topic=line.topic,
        )
        for text in line.instructions
    ]


def _read_mask(root: Path, line: _Line, key: str, value: Any) -> Rle:
    """Read a mask of any of the three forms."""
    if isinstance(value, PurePosixPath):
        try:
            return mask_from_file(root / value)
        except ValueError as error:
            raise ValueError(f"the mask file {value}: {error}") from None
    try:
        if "rle" in value:
            return mask_from_rle(value["rle"])
    except ValueError as error:
        raise ValueError(f"{key!r}: {error}") from None
    width, height = _image_size(root, line)
    try:
        return mask_from_polygons(value["polygons"], height, width)
    except ValueError as error:
        raise ValueError(f"{key!r}: {error}") from None


def _image_size(root: Path, line: _Line) -> tuple[int, int]:
    """Return width and height of a line's image; raises ValueError with the reason."""
    try:
        return image_size(root / line.image)
    except OSError as error:
        raise ValueError(f"the image {line.image}: {error.strerror}") from None
    except LensCacheError as error:
        raise ValueError(f"the image {line.image}: {error}") from None
