"""LISA's sampler: draws an image, queries about it, and the wording of each query.

LENS has the same sampler with one answer to draw from instead of LISA's five.

It calls Python's and numpy's random generators in the same order as LISA's ``HybridDataset`` in one
process after ``random.seed(seed); numpy.random.seed(seed)``. The stream of draws is therefore the
same if the sets have the same images with the same labels in the same order. No other step from a
draw to a sample in LISA (resizing, padding) uses random numbers.

Differences from LISA:

* Visual question answering is skipped, as in LENS, and so is the explanatory part of ReasonSeg
  (LISA's ``--explanatory -1``).
* LISA lists COCO-Stuff and ReasonSeg in the order of the file system, and the images of RefCOCO in
  the order of a Python set; here the order of a set is fixed.
* The queries of a set equal LISA's only with ``data.lisa.rules: parity``. With ``strict``, a class
  of PACO or PASCAL-Part is one query; LISA has one per annotation.
* An annotation with a mask that cannot be decoded is not among the queries, so it is never drawn.
  LISA draws it, fails, and takes another image.
* An image without queries is replaced, as LISA does with an image without a label. This includes
  ReasonSeg, where LISA stops with an error, and images that are skipped because a benchmark tests
  on them.
* An image file that cannot be read stops LISA. Here its draw is kept, without queries.
* LISA's loader processes have one generator each; here there is one stream.
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

# LISA replaces an image by recursion, which Python's recursion limit stops at about this depth.
_MAX_REPLACED = 1000


class Askable(NamedTuple):
    """The properties of a query that a draw needs: number of phrasings, and if it is a sentence."""

    phrasings: int
    long: bool


Population = tuple[Askable, ...]


def population(record: ImageRecord) -> Population:
    """Return the queries of a record as a draw sees them."""
    return tuple(
        Askable(1 + len(query.alternatives), query.length == "long") for query in record.queries
    )


class LisaDraw(NamedTuple):
    """A drawn record and its drawn queries: positions in the record, with their choices."""

    record: int
    queries: tuple[tuple[int, Choice], ...]


class LisaSampler:
    """An endless stream of draws.

    Args:
        groups: For each group that has sets, the records of every set, in the sampler's order.
        rates: Relative frequency of each group.
        queries_per_draw: Queries drawn per image; all of them if it has fewer.
        answers: Number of answers to draw from.
        seed: Seed of both generators.
        population: Returns the queries of a record as a draw sees them.

    Attributes:
        replaced: Records that were drawn but have no query.
    """

    def __init__(
        self,
        groups: Mapping[Group, Sequence[range]],
        rates: Sequence[float],
        queries_per_draw: int,
        answers: int,
        seed: int,
        population: Callable[[int], Population],
    ) -> None:
        self.replaced: set[int] = set()
        self._groups = list(groups.items())
        self._shares = np.asarray(rates) / np.sum(rates)
        self._count = queries_per_draw
        self._answers = answers
        self._population = population
        self._python = random.Random(seed)
        self._numpy = np.random.RandomState(seed)

    def draw(self) -> LisaDraw:
        """Return the next draw.

        Raises:
            DatasetError: If a thousand drawn images of a group have no query.
        """
        name, sets = self._groups[self._numpy.choice(len(self._groups), p=self._shares)]
        for _ in range(_MAX_REPLACED):
            record = self._image(name, sets)
            askable = self._population(record)
            if askable:
                return LisaDraw(record, self._queries(askable))
            self.replaced.add(record)
        raise DatasetError(
            f"drawing as LISA does: {_MAX_REPLACED} images of the {name} sets in a row have no "
            "query; run `lens-cache data check` to see why"
        )

    def _image(self, group: Group, sets: Sequence[range]) -> int:
        if group == "reasoning":  # LISA has one list of images for all splits
            position = self._python.randint(0, sum(map(len, sets)) - 1)
            for records in sets:
                if position < len(records):
                    return records[position]
                position -= len(records)
        records = sets[self._python.randint(0, len(sets) - 1)]
        return records[self._python.randint(0, len(records) - 1)]

    def _queries(self, askable: Population) -> tuple[tuple[int, Choice], ...]:
        """Draw queries, then the phrasing of each, then the template and the answer of each."""
        positions: Sequence[int] = range(len(askable))
        if len(askable) >= self._count:
            drawn = self._numpy.choice(len(askable), size=self._count, replace=False)
            positions = [int(position) for position in drawn]
        phrasings = [self._phrasing(askable[position]) for position in positions]
        choices = []
        for position, phrasing in zip(positions, phrasings, strict=True):
            num_templates = NUM_LONG if askable[position].long else NUM_SHORT
            choices.append((position, Choice(phrasing, self._python.choice(range(num_templates)))))
            self._python.choice(range(self._answers))  # not used here, but LISA draws it
        return tuple(choices)

    def _phrasing(self, query: Askable) -> int:
        """Draw the phrasing of a part: "bus wheel" or "the wheel of the bus", equally likely."""
        if query.phrasings == 1:
            return 0
        return int(self._python.random() * query.phrasings)
