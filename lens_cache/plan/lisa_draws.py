"""Mode ``lisa``: what LISA's sampler draws becomes the records and queries to plan.

The stream is sequential, since what a draw uses up depends on how many queries its image has. A
first pass in parallel counts the queries of every image that could be drawn; where the draws are
few, the images are counted as they come instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lens_cache.config.data import DataConfig
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.dataset import LisaDataset
from lens_cache.datasets.lisa.evaluation_images import WithoutEvaluation
from lens_cache.datasets.lisa.sampler import Draw, LisaSampler, Population, population
from lens_cache.datasets.lisa.sets import Group
from lens_cache.datasets.questions import Choice, is_training
from lens_cache.datasets.source import CHUNK, DataSource, Mapper
from lens_cache.errors import ConfigError, DatasetError
from lens_cache.plan.rows import Pick
from lens_cache.plan.schema import DRAWS

# Fewer draws than this share of the images are counted as they come.
_FEW = 1 / 32
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Drawn:
    """The draws of a run.

    Attributes:
        picks: What to plan of which record, in the order of the dataset.
        codes: Every drawn query as a number, one draw after another.
        distinct: The different ones, in the order of ``picks``.
        ends: Where the queries of each draw end in ``codes``.
    """

    picks: list[Pick]
    codes: NDArray[np.int64]
    distinct: NDArray[np.int64]
    ends: NDArray[np.int64]

    def table(self, asked: Sequence[str]) -> Any:
        """Return the table of draws, given the ids of the picked queries (empty: unusable)."""
        ids = np.asarray(asked, dtype=object)[np.searchsorted(self.distinct, self.codes)]
        usable = ids != ""
        ends = np.concatenate([[0], np.cumsum(usable)])[np.concatenate([[0], self.ends])]
        lists = pa.ListArray.from_arrays(
            pa.array(ends.astype(np.int32)), pa.array(ids[usable], pa.string())
        )
        numbers = pa.array(np.arange(len(self.ends)), pa.int32())
        columns = [numbers, lists.cast(DRAWS.field("queries").type)]
        return pa.Table.from_arrays(columns, schema=DRAWS)


def draw(source: DataSource, mapper: Mapper, progress: Progress) -> Drawn:
    """Draw ``data.lisa.draws`` times from the training splits; other splits stay whole.

    Args:
        source: A dataset of the kind ``lisa``.
        mapper: Counts the queries of images in parallel.
        progress: Called with ("count" or "draw", images or draws done, in all).

    Raises:
        ConfigError: If there is no training split, or no rate for any.
        DatasetError: If nothing is found to ask.
    """
    config, number = source.config, source.config.lisa.draws
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

    sampler = LisaSampler(groups, rates, config.lisa.queries_per_draw, config.seed, lookup)
    codes: list[int] = []
    ends = np.empty(number, dtype=np.int64)
    for count in range(number):
        codes += _encode(sampler.draw())
        ends[count] = len(codes)
        if count % 1000 == 999 or count + 1 == number:
            progress("draw", count + 1, number)
    array = np.asarray(codes, dtype=np.int64)
    distinct = np.unique(array)
    return Drawn(_picks(dataset, distinct, sampler.replaced), array, distinct, ends)


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
    for name, records in dataset.ranges.items():
        if is_training(name.split) and len(records):
            groups[KINDS[name.name].group].append(records)
    there = {group: sets for group, sets in groups.items() if sets}
    if not sum(rates[group] for group in there):
        raise ConfigError(
            "data.lisa.draws draws from training splits; data.lisa.sets names "
            + (f"only {', '.join(there)} ones, whose data.lisa.rates are 0" if there else "none")
        )
    return there, [rates[group] for group in there]


def _count(
    source: DataSource, trained: Sequence[int], mapper: Mapper, progress: Progress
) -> dict[int, Population]:
    """Return what can be drawn of every record."""
    chunks = [trained[start : start + CHUNK] for start in range(0, len(trained), CHUNK)]
    known: dict[int, Population] = {}
    shared: dict[Population, Population] = {}
    for chunk, found in zip(chunks, mapper(source, populations, chunks), strict=True):
        for index, askable in zip(chunk, found, strict=True):
            known[index] = shared.setdefault(askable, askable)
        progress("count", len(known), len(trained))
    return known


def populations(source: DataSource, indices: Sequence[int]) -> list[Population]:
    """Return what can be drawn of some records."""
    return [_population(source, index) for index in indices]


def _population(source: DataSource, index: int) -> Population:
    """Return what can be drawn of a record; nothing if it cannot be read, which planning tells."""
    try:
        return population(source.open()[index])
    except (DatasetError, OSError):
        return ()


def _encode(drawn: Draw) -> Iterator[int]:
    """Return the drawn queries as numbers: record, position, phrasing, template."""
    for position, choice in drawn.queries:
        yield ((drawn.record << 16 | position) << 8 | choice.phrasing) << 4 | choice.template


def _picks(dataset: LisaDataset, distinct: NDArray[np.int64], replaced: set[int]) -> list[Pick]:
    """Return what to plan: drawn queries, records without any, and every other split whole."""
    queries: dict[int, list[tuple[int, Choice]]] = {index: [] for index in replaced}
    for code in distinct.tolist():
        choice = Choice(code >> 4 & 0xFF, code & 0xF)
        queries.setdefault(code >> 28, []).append((code >> 12 & 0xFFFF, choice))
    picks = [Pick(index, tuple(chosen)) for index, chosen in queries.items()]
    picks += [
        Pick(index)
        for name, records in dataset.ranges.items()
        if not is_training(name.split)
        for index in records
    ]
    return sorted(picks, key=lambda pick: pick.record)
