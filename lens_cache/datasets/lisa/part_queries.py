"""Build the queries of an image with objects and parts, under both rules; see ``parts``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lens_cache.config.data import Rules
from lens_cache.datasets.base import QueryRecord, Rejected, brief
from lens_cache.datasets.lisa.part_index import PartAnnotation, PartImage
from lens_cache.datasets.mask_parsing import check_not_empty, mask_from_segmentation
from lens_cache.datasets.questions import clean_class_name
from lens_cache.errors import one_line
from lens_cache.images import masks
from lens_cache.images.masks import Rle

Found = tuple[list[QueryRecord], list[Rejected]]


@dataclass(frozen=True)
class Part:
    """A class: a kind of object, or one of its parts; ``part`` is empty for the object itself."""

    thing: str
    part: str

    def query(self, split: str, target: Rle, ignore: Rle | None) -> QueryRecord:
        """Return the query of this class with its masks."""
        return QueryRecord(
            instruction=f"{self.thing} {self.part}".strip(),
            alternatives=(f"the {self.part} of the {self.thing}",) if self.part else (),
            kind="class",
            topic="part" if self.part else "object",
            length="short",
            split=split,
            target=target,
            ignore=ignore,
        )


def part_of(category: str, rules: Rules, *, parts_only: bool) -> Part:
    """Parse a category's name, "object" or "object:part".

    Raises:
        ValueError: If it has another form, or is an object in a set that has only parts.
    """
    words = category.strip().split(":")
    if len(words) != 2 and (parts_only or len(words) != 1):
        raise ValueError(f"expected a category like 'dog:head', got {brief(category)}")
    if rules == "parity":
        words = [word.split("_(")[0] for word in words]
    else:
        words = [clean_class_name(word) for word in words]
    return Part(words[0], words[1] if len(words) == 2 else "")


def each_annotation(
    image: PartImage, shape: tuple[int, int], classes: Mapping[int, Part], split: str
) -> Found:
    """Return one query per annotation, as LISA samples them; ``shape`` is (height, width)."""
    rejected: list[Rejected] = []
    queries = [
        classes[annotation.category].query(split, rle, None)
        for annotation, rle in _readable(image, shape, classes, rejected, lenient=True)
    ]
    return queries, rejected


def class_queries(
    image: PartImage, shape: tuple[int, int], classes: Mapping[int, Part], split: str
) -> Found:
    """Return one query per class, in the order of first annotations; see ``parts``."""
    rejected: list[Rejected] = []
    targets: dict[Part, list[Rle]] = {}
    crowds: dict[Part, list[Rle]] = {}
    undivided: dict[str, list[Rle]] = {}
    divided = {a.object_number for a in image.annotations if _is_part(a, classes)}
    incomplete = {classes[number] for number in image.incomplete if number in classes}
    for annotation, rle in _readable(image, shape, classes, rejected):
        try:
            check_not_empty(rle)
        except ValueError as error:
            rejected.append(Rejected(f"annotation {annotation.number}", str(error)))
            continue
        kind = classes[annotation.category]
        (crowds if annotation.crowd else targets).setdefault(kind, []).append(rle)
        if not kind.part and annotation.number not in divided:
            undivided.setdefault(kind.thing, []).append(rle)
    queries = []
    for kind, pieces in targets.items():
        if kind in incomplete:
            continue
        whole = undivided.get(kind.thing, []) if kind.part else []
        target = masks.merge(pieces)
        ignore = _without([*whole, *crowds.get(kind, [])], target)
        queries.append(kind.query(split, target, ignore))
    return queries, rejected


def _readable(
    image: PartImage,
    shape: tuple[int, int],
    classes: Mapping[int, Part],
    rejected: list[Rejected],
    *,
    lenient: bool = False,
) -> Iterator[tuple[PartAnnotation, Rle]]:
    """Yield the usable annotations with their masks; append the others to ``rejected``.

    If ``lenient``, polygons are read as LISA does, see ``lenient_polygons``.
    """
    for annotation in image.annotations:
        try:
            if type(annotation.category) is not int or annotation.category not in classes:
                raise ValueError(f"unknown category id {brief(annotation.category)}")
            rle = mask_from_segmentation(annotation.segmentation, *shape, lenient=lenient)
        except ValueError as error:
            rejected.append(Rejected(f"annotation {annotation.number}", one_line(error)))
        else:
            yield annotation, rle


def _is_part(annotation: PartAnnotation, classes: Mapping[int, Part]) -> bool:
    number = annotation.category
    return type(number) is int and number in classes and bool(classes[number].part)


def _without(pieces: list[Rle], target: Rle) -> Rle | None:
    """Return the union of masks minus a target; None if it is empty."""
    if not pieces:
        return None
    rest = masks.decode(masks.merge(pieces)) & ~masks.decode(target)
    return masks.encode(rest) if rest.any() else None
