"""Find the images that benchmarks test on, to skip them in training splits."""

from __future__ import annotations

from collections.abc import Sequence

from lens_cache.datasets.lisa.dataset import LisaDataset
from lens_cache.datasets.lisa.evaluation_images import (
    EvaluationImages,
    benchmark_sets,
    only_benchmarks,
)
from lens_cache.datasets.source import CHUNK, DataSource, Mapper
from lens_cache.errors import DatasetError
from lens_cache.plan.rows import quarantine_row
from lens_cache.progress import Progress


def without_evaluation(
    source: DataSource, mapper: Mapper, progress: Progress, quarantine: list[dict[str, str]]
) -> DataSource:
    """Return the dataset without training queries about images of evaluation sets.

    The evaluation sets are searched below the same root, whether or not ``data.lisa.sets`` names
    them.

    Args:
        source: A dataset of kind ``lisa``.
        mapper: Reads the files of the evaluation sets in parallel.
        progress: Called with ("exclude", images read, images in all).
        quarantine: Gets a row for every evaluation set that is missing, so cannot be excluded.

    Raises:
        DatasetError: If all evaluation sets are missing.
    """
    benchmarks = DataSource(only_benchmarks(source.config))
    dataset = _open(benchmarks)
    for reason in dataset.skipped:
        quarantine.append(quarantine_row(dataset.source, "benchmark", f"not left out: {reason}"))
    indices = range(len(dataset))
    chunks = [indices[start : start + CHUNK] for start in indices[::CHUNK]]
    found, done = EvaluationImages(), 0
    for chunk, part in zip(chunks, mapper(benchmarks, evaluation_images, chunks), strict=True):
        found.update(part)
        done += len(chunk)
        progress("exclude", done, len(indices))
    return source.without(found)


def evaluation_images(source: DataSource, indices: Sequence[int]) -> EvaluationImages:
    """Identify images of the benchmarks; records that cannot be read are skipped."""
    dataset, found = _open(source), EvaluationImages()
    for index in indices:
        try:
            record = dataset[index]
        except (DatasetError, OSError):
            continue
        found.add(dataset.root, record.path, str(dataset.set_of(index)))
    return found


def _open(source: DataSource) -> LisaDataset:
    try:
        dataset = source.open()
    except DatasetError as error:
        raise DatasetError(
            f"data.lisa.exclude_eval_images: none of {', '.join(benchmark_sets())} can be opened, "
            f"so the images to exclude are unknown ({error}); add one of them, or set it to false"
        ) from None
    assert isinstance(dataset, LisaDataset)
    return dataset
