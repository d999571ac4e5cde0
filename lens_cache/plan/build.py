"""Make the plan of a store from a dataset: read every image once, dedupe by content."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import SegmentationDataset
from lens_cache.datasets.questions import question
from lens_cache.datasets.source import CHUNK, DataSource, Mapper, in_threads
from lens_cache.errors import ConfigError, DatasetError
from lens_cache.plan.assembly import Assembly
from lens_cache.plan.exclusion import without_evaluation
from lens_cache.plan.lisa_draws import Drawn, draw
from lens_cache.plan.plan import Plan, PlannedImage, PlannedQuery
from lens_cache.plan.rows import Pick, quarantine_row, read_rows

__all__ = ["Plan", "PlannedImage", "PlannedQuery", "build_plan"]

Progress = Callable[[str, int, int], None]


def build_plan(
    config: DataConfig, *, progress: Progress | None = None, mapper: Mapper | None = None
) -> Plan:
    """Read a dataset and every image file of it once, and lay out the store.

    The same picture under two paths is one image with the queries of both. An image takes its
    place where it first occurs in the dataset; its queries keep their order. Only an image's
    header is decoded here: a file that ends too early shows itself at extraction. A record that
    cannot be used is set aside; it never stops the others.

    Args:
        config: The dataset. The questions' templates are part of it.
        progress: Called with (what is done, steps done, steps in all).
        mapper: How the work is spread; threads if not given. The plan does not depend on it.

    Raises:
        ConfigError: If a setting does not fit the dataset.
        DatasetError: If the dataset cannot be read, or nothing usable is left of it.
    """
    mapper, progress = mapper or in_threads(), progress or _silent
    _check(config)
    source, assembly = DataSource(config), Assembly()
    dataset = source.open()
    for rejected in dataset.rejected:
        assembly.quarantine.append(quarantine_row(dataset.source, rejected.what, rejected.reason))
    if config.kind == "lisa" and config.lisa.exclude_eval_images:
        source = without_evaluation(source, mapper, progress, assembly.quarantine)
    drawn: Drawn | None = None
    picks: Sequence[Pick] = [Pick(index) for index in range(len(dataset))]
    if _draws(config):
        drawn = draw(source, mapper, progress)
        picks = drawn.picks
    chunks = [picks[start : start + CHUNK] for start in range(0, len(picks), CHUNK)]
    done = 0
    for chunk, rows in zip(chunks, mapper(source, read_rows, chunks), strict=True):
        assembly.add(rows)
        done += len(chunk)
        progress("plan", done, len(picks))
    if assembly.empty:
        raise DatasetError(_nothing_left(config, dataset, assembly, len(picks)))
    plan = assembly.build()
    return plan if drawn is None else dataclasses.replace(plan, draws=drawn.table(assembly.asked))


def _check(config: DataConfig) -> None:
    """Refuse settings that cannot go together before anything is read."""
    question("", "short", config)
    question("", "long", config)
    if _draws(config) and config.queries_per_image is not None:
        raise ConfigError(
            "data.queries_per_image keeps some queries of every image, data.lisa.draws plans those "
            "that LISA's sampler draws (data.lisa.queries_per_draw at a time); set one of the two"
        )


def _draws(config: DataConfig) -> bool:
    return config.kind == "lisa" and config.lisa.draws is not None


def _silent(what: str, done: int, total: int) -> None:
    pass


def _nothing_left(
    config: DataConfig, dataset: SegmentationDataset, assembly: Assembly, total: int
) -> str:
    """Say why no image is left."""
    unreadable, rows = assembly.unreadable, assembly.quarantine
    start = f"planning {config.root}"
    if len(unreadable) == total:
        first = unreadable[0]
        return (
            f"{start}: none of {total} images can be read; the first is {first['path']}: "
            f"{first['reason']}"
        )
    first = rows[0] if rows else quarantine_row(dataset.source, "it", "has no query")
    return (
        f"{start}: no usable query in {total} images ({len(rows)} entries rejected); the first is "
        f"{first['path']}, {first['what']}: {first['reason']}"
    )
