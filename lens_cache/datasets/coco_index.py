"""Index the entries of a COCO file: images and annotations by id, annotations by image.

Three readers share it: COCO itself, LISA's sets of objects and parts, and its referring sets.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from lens_cache.datasets.base import Rejected, brief

Entry = dict[str, Any]


def by_id(entries: Iterable[Any], what: str) -> tuple[dict[int, Entry], list[Rejected]]:
    """Return entries by their ``id``, in their order, and those without an id of their own.

    Args:
        entries: Images or annotations of a COCO file. The first of two equal ids is kept.
        what: Name of an entry for the reasons, e.g. "image".
    """
    found: dict[int, Entry] = {}
    rejected: list[Rejected] = []
    for position, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(entry, dict):
            reason = f"expected an object, got {brief(entry)}"
        elif type(number) is not int:
            reason = f"its id must be an integer, got {brief(number)}"
        elif number in found:
            reason = f"another {what} has its id"
        else:
            found[number] = entry
            continue
        rejected.append(Rejected(f"{what} {_label(entry, position)}", reason))
    return found, rejected


def by_image(
    annotations: Iterable[Any], images: Container[int]
) -> tuple[dict[int, list[Entry]], list[Rejected]]:
    """Return annotations by their ``image_id``, in their order, and those of no known image.

    Args:
        annotations: Annotations of a COCO file.
        images: Ids of its images.
    """
    found: dict[int, list[Entry]] = {}
    rejected: list[Rejected] = []
    for position, entry in enumerate(annotations):
        number = entry.get("image_id") if isinstance(entry, dict) else None
        if type(number) is int and number in images:
            found.setdefault(number, []).append(entry)
        else:
            reason = f"no image has its image_id {brief(number)}"
            rejected.append(Rejected(f"annotation {_label(entry, position)}", reason))
    return found, rejected


def _label(entry: Any, position: int) -> str:
    """Return the id of an entry, or its position in the file if it has none."""
    number = entry.get("id") if isinstance(entry, dict) else None
    return str(number) if type(number) is int else f"at position {position}"
