"""LISA's sampler: which image it turns to next, what it asks about it, and in which words.

The same calls of Python's and numpy's generators, in the same order, as LISA's ``HybridDataset``
makes in one process after ``random.seed(seed); numpy.random.seed(seed)``, so that the stream is the
same as long as the sets hold the same images with the same labels in the same order. Nothing else
in LISA's way from a draw to a sample uses up randomness: resizing and padding do not.

Where it must differ, or can:

* Visual question answering is left out, as LENS does, and so is the explanatory part of ReasonSeg
  (LISA's ``--explanatory -1``).
* LISA lists COCO-Stuff and ReasonSeg as the file system has them, and the images of RefCOCO in the
  order of a Python set; here a set has one order.
* The queries of a set are LISA's only by ``data.lisa.rules: parity``; ``strict`` asks for a class
  of PACO or PASCAL-Part once, where LISA has every annotation.
* An annotation whose mask cannot be decoded is not among the queries, so it is never drawn. LISA
  draws it, fails, and takes another image.
* An image without queries is replaced like one without a label in LISA. That holds for ReasonSeg
  too, where LISA stops with an error, and for images that are left out because they are tested on.
* An image file that cannot be read stops LISA. Here its draw stays, with nothing in it.
* LISA's loader processes have a generator each; here there is one stream.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lens_cache.datasets.base import ImageRecord
from lens_cache.datasets.lisa.sets import Group
from lens_cache.datasets.questions import NUM_LONG, NUM_SHORT, Choice
from lens_cache.errors import DatasetError

_NUM_ANSWERS = 5
# LISA's replacing is recursive, and Python stops it about here.
_MAX_REPLACED = 1000


class Askable(NamedTuple):
    """What a draw needs to know of a query: how many phrasings it has, and if it is a sentence."""

    phrasings: int
    long: bool


Population = tuple[Askable, ...]


def population(record: ImageRecord) -> Population:
    """Return what can be drawn of a record."""
    return tuple(
        Askable(1 + len(query.alternatives), query.length == "long") for query in record.queries
    )


class Draw(NamedTuple):
    """An image, and what is asked about it: positions among its queries, with their choices."""

    record: int
    queries: tuple[tuple[int, Choice], ...]


class LisaSampler:
    """Draws without end.

    Args:
        groups: For each group that has sets, the records of every set, in the sampler's order.
        rates: How often it turns to each group; only the ratios matter.
        queries_per_draw: Queries drawn of an image, or all if it has no more.
        seed: Seeds both generators.
        population: Tells what can be drawn of a record.

    Attributes:
        replaced: Records that were drawn and had nothing to ask.
    """

    def __init__(
        self,
        groups: Mapping[Group, Sequence[range]],
        rates: Sequence[float],
        queries_per_draw: int,
        seed: int,
        population: Callable[[int], Population],
    ) -> None:
        self.replaced: set[int] = set()
        self._groups = list(groups.items())
        self._shares = np.asarray(rates) / np.sum(rates)
        self._count, self._population = queries_per_draw, population
        self._python = random.Random(seed)
        self._numpy = np.random.RandomState(seed)

    def draw(self) -> Draw:
        """Return the next draw.

        Raises:
            DatasetError: If nothing is found to ask in a thousand images of a group.
        """
        name, sets = self._groups[self._numpy.choice(len(self._groups), p=self._shares)]
        for _ in range(_MAX_REPLACED):
            record = self._image(name, sets)
            askable = self._population(record)
            if askable:
                return Draw(record, self._queries(askable))
            self.replaced.add(record)
        raise DatasetError(
            f"drawing as LISA does: {_MAX_REPLACED} images of the {name} sets in a row have "
            "nothing to ask; look at them with `lens-cache data check`"
        )

    def _image(self, group: Group, sets: Sequence[range]) -> int:
        if group == "reasoning":  # one list of images, whatever the splits
            place = self._python.randint(0, sum(map(len, sets)) - 1)
            for records in sets:
                if place < len(records):
                    return records[place]
                place -= len(records)
        records = sets[self._python.randint(0, len(sets) - 1)]
        return records[self._python.randint(0, len(records) - 1)]

    def _queries(self, askable: Population) -> tuple[tuple[int, Choice], ...]:
        """Draw queries, then the phrasing of each, then the question and the answer of each."""
        positions: Sequence[int] = range(len(askable))
        if len(askable) >= self._count:
            drawn = self._numpy.choice(len(askable), size=self._count, replace=False)
            positions = [int(position) for position in drawn]
        phrasings = [self._phrasing(askable[position]) for position in positions]
        choices = []
        for position, phrasing in zip(positions, phrasings, strict=True):
            num_templates = NUM_LONG if askable[position].long else NUM_SHORT
            choices.append((position, Choice(phrasing, self._python.choice(range(num_templates)))))
            self._python.choice(range(_NUM_ANSWERS))  # of no use here, but LISA draws it
        return tuple(choices)

    def _phrasing(self, query: Askable) -> int:
        """Draw how a part is called: half of the time "bus wheel", else "the wheel of the bus"."""
        if query.phrasings == 1:
            return 0
        return int(self._python.random() * query.phrasings)
