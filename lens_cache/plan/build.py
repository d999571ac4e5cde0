"""Build the plan of a store from a dataset: read every image file once, deduplicate by content."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import SegmentationDataset
from lens_cache.datasets.questions import question
from lens_cache.datasets.source import CHUNK, DataSource, Mapper, in_threads
from lens_cache.errors import ConfigError, DatasetError
from lens_cache.plan.assembly import Assembly
from lens_cache.plan.exclusion import without_evaluation
from lens_cache.plan.lisa_draws import Drawn, draw
from lens_cache.plan.plan import Plan
from lens_cache.plan.rows import Pick, quarantine_row, read_rows
from lens_cache.progress import Progress, no_progress


def build_plan(
    config: DataConfig,
    *,
    progress: Progress = no_progress,
    mapper: Mapper | None = None,
    source: DataSource | None = None,
) -> Plan:
    """Read a dataset and each of its image files once, and return the plan.

    Files with equal content are one image with the queries of all of them. Images are in the order
    of first occurrence in the dataset; their queries keep the dataset's order. Only the header of
    an image is decoded here, so a truncated file is found at extraction. A record that is not
    usable is skipped and listed in the quarantine table.

    Args:
        config: The dataset and the question templates.
        progress: Called with (name of the step, items done, items in all).
        mapper: Runs the work in parallel; threads by default. The plan does not depend on it.
        source: The dataset of the settings, if the caller has it open.

    Raises:
        ConfigError: If a setting does not fit the dataset.
        DatasetError: If the dataset cannot be read, or has no usable record.
    """
    mapper = mapper or in_threads()
    _check(config)
    source = source or DataSource(config)
    assembly = Assembly()
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
        raise DatasetError(_why_empty(config, dataset, assembly, len(picks)))
    plan = assembly.build()
    if drawn is None:
        return plan
    return dataclasses.replace(plan, draws=drawn.table(assembly.picked_ids))


def _check(config: DataConfig) -> None:
    """Raise ConfigError for settings that exclude each other, before anything is read."""
    question("", "short", config)
    question("", "long", config)
    if _draws(config) and config.queries_per_image is not None:
        raise ConfigError(
            "data.queries_per_image keeps some queries of every image, data.lisa.draws plans those "
            "that LISA's sampler draws (data.lisa.queries_per_draw at a time); set one of the two"
        )


def _draws(config: DataConfig) -> bool:
    return config.kind == "lisa" and config.lisa.draws is not None


def _why_empty(
    config: DataConfig, dataset: SegmentationDataset, assembly: Assembly, total: int
) -> str:
    """Return the error message for a plan without images."""
    unreadable = assembly.unreadable
    rows = assembly.quarantine
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
