"""``data.lisa.draws``: plan only the records and queries that LISA's sampler draws.

The stream of draws is sequential: the number of random values of a draw depends on the number of
queries of its image. So a first pass counts the queries of all images in parallel; if there are
few draws, only the drawn images are counted, one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lens_cache.config.data import DataConfig
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.dataset import LisaDataset
from lens_cache.datasets.lisa.evaluation_images import WithoutEvaluation
from lens_cache.datasets.lisa.sampler import LisaSampler, Population, population
from lens_cache.datasets.lisa.sets import Group
from lens_cache.datasets.questions import Choice, is_training, num_answers
from lens_cache.datasets.source import CHUNK, DataSource, Mapper
from lens_cache.errors import ConfigError, DatasetError
from lens_cache.plan.rows import Pick
from lens_cache.plan.schema import DRAWS
from lens_cache.progress import Progress

# With fewer draws than this share of the images, only the drawn images are counted.
_FEW = 1 / 32


class DrawnQuery(NamedTuple):
    """A drawn query: its record, its position in the record, and its drawn wording."""

    record: int
    position: int
    choice: Choice


@dataclass(frozen=True)
class Drawn:
    """All draws of a plan.

    Attributes:
        picks: The records to plan with their drawn queries, in the order of the dataset.
        queries: For every drawn query, one draw after another, its position among the queries of
            ``picks``; shape (number of drawn queries,).
        ends: End of each draw in ``queries``, shape (number of draws,).
    """

    picks: list[Pick]
    queries: NDArray[np.int64]
    ends: NDArray[np.int64]

    def table(self, picked_ids: Sequence[str]) -> pa.Table:
        """Return the table of draws, given the ids of the picked queries (empty: not usable)."""
        ids = np.asarray(picked_ids, dtype=object)[self.queries]
        usable = ids != ""
        ends = np.concatenate([[0], np.cumsum(usable)])[np.concatenate([[0], self.ends])]
        lists = pa.ListArray.from_arrays(
            pa.array(ends.astype(np.int32)), pa.array(ids[usable], pa.string())
        )
        numbers = pa.array(np.arange(len(self.ends)), pa.int32())
        columns = [numbers, lists.cast(DRAWS.field("queries").type)]
        return pa.Table.from_arrays(columns, schema=DRAWS)


def draw(source: DataSource, mapper: Mapper, progress: Progress) -> Drawn:
    """Draw ``data.lisa.draws`` times from the training splits; other splits are planned fully.

    Args:
        source: A dataset of kind ``lisa``.
        mapper: Counts the queries of images in parallel.
        progress: Called with ("count" or "draw", images or draws done, in all).

    Raises:
        ConfigError: If there is no training split, or all rates of those groups are 0.
        DatasetError: If the drawn images have no query.
    """
    config = source.config
    number = config.lisa.draws
    assert number is not None
    dataset = _lisa(source)
    groups, rates = _groups(dataset, config)
    trained = [index for sets in groups.values() for records in sets for index in records]
    known: dict[int, Population] = {}
    if number > _FEW * len(trained):
        known = _count(source, trained, mapper, progress)

    def lookup(index: int) -> Population:
        if index not in known:
            known[index] = _population(source, index)
        return known[index]

    answers = num_answers(config.templates)
    sampler = LisaSampler(groups, rates, config.lisa.queries_per_draw, answers, config.seed, lookup)
    numbers: dict[DrawnQuery, int] = {}  # in the order in which they were first drawn
    drawn: list[int] = []
    ends = np.empty(number, dtype=np.int64)
    for count in range(number):
        one = sampler.draw()
        for position, choice in one.queries:
            query = DrawnQuery(one.record, position, choice)
            drawn.append(numbers.setdefault(query, len(numbers)))
        ends[count] = len(drawn)
        if count % 1000 == 999 or count + 1 == number:
            progress("draw", count + 1, number)
    distinct = sorted(numbers)
    rank = np.empty(len(numbers), dtype=np.int64)
    rank[[numbers[query] for query in distinct]] = np.arange(len(numbers))
    return Drawn(_picks(dataset, distinct, sampler.replaced), rank[drawn], ends)


def _lisa(source: DataSource) -> LisaDataset:
    dataset = source.open()
    if isinstance(dataset, WithoutEvaluation):
        dataset = dataset.whole
    assert isinstance(dataset, LisaDataset)
    return dataset


def _groups(
    dataset: LisaDataset, config: DataConfig
) -> tuple[dict[Group, list[range]], list[float]]:
    """Return the training sets by group, and the rates of those groups, in LISA's order."""
    wanted = config.lisa.rates
    rates: dict[Group, float] = {
        "semantic": wanted.semantic,
        "referring": wanted.referring,
        "reasoning": wanted.reasoning,
    }
    groups: dict[Group, list[range]] = {group: [] for group in rates}
    for name, records in dataset.ranges_of_sets.items():
        if is_training(name.split) and len(records):
            groups[KINDS[name.name].group].append(records)
    there = {group: sets for group, sets in groups.items() if sets}
    if not sum(rates[group] for group in there):
        found = "has none"
        if there:
            found = f"has only {', '.join(there)} ones, and their data.lisa.rates are 0"
        raise ConfigError(f"data.lisa.draws draws from training splits, but data.lisa.sets {found}")
    return there, [rates[group] for group in there]


def _count(
    source: DataSource, trained: Sequence[int], mapper: Mapper, progress: Progress
) -> dict[int, Population]:
    """Return the population of every record, counted in parallel."""
    chunks = [trained[start : start + CHUNK] for start in range(0, len(trained), CHUNK)]
    known: dict[int, Population] = {}
    shared: dict[Population, Population] = {}
    for chunk, found in zip(chunks, mapper(source, populations, chunks), strict=True):
        for index, askable in zip(chunk, found, strict=True):
            known[index] = shared.setdefault(askable, askable)
        progress("count", len(known), len(trained))
    return known


def populations(source: DataSource, indices: Sequence[int]) -> list[Population]:
    """Return the populations of records."""
    return [_population(source, index) for index in indices]


def _population(source: DataSource, index: int) -> Population:
    """Return the population of a record; empty if it is unreadable (planning reports that)."""
    try:
        return population(source.open()[index])
    except (DatasetError, OSError):
        return ()


def _picks(dataset: LisaDataset, drawn: Sequence[DrawnQuery], replaced: set[int]) -> list[Pick]:
    """Return the picks: drawn queries, replaced records without any, and other splits fully.

    Args:
        dataset: The dataset.
        drawn: The distinct drawn queries, sorted.
        replaced: Drawn records without a query; planning reports why they have none.
    """
    queries: dict[int, list[tuple[int, Choice]]] = {index: [] for index in replaced}
    for query in drawn:
        queries.setdefault(query.record, []).append((query.position, query.choice))
    picks = [Pick(index, tuple(chosen)) for index, chosen in queries.items()]
    picks += [
        Pick(index)
        for name, records in dataset.ranges_of_sets.items()
        if not is_training(name.split)
        for index in records
    ]
    return sorted(picks, key=lambda pick: pick.record)
