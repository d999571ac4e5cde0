"""Find the images that benchmarks test on, to leave them out of training splits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lens_cache.datasets.base import SegmentationDataset
from lens_cache.datasets.lisa.dataset import LisaDataset
from lens_cache.datasets.lisa.evaluation_images import (
    EvaluationImages,
    benchmark_sets,
    only_benchmarks,
)
from lens_cache.datasets.source import CHUNK, DataSource, Mapper
from lens_cache.errors import DatasetError
from lens_cache.plan.rows import quarantine_row


def without_evaluation(
    source: DataSource,
    mapper: Mapper,
    progress: Callable[[str, int, int], None],
    quarantine: list[dict[str, str]],
) -> DataSource:
    """Return the dataset with nothing asked in training about images that are tested on.

    They are looked for below the same root, whether or not ``data.lisa.sets`` names their sets.

    Args:
        source: A dataset of the kind ``lisa``.
        mapper: Reads their files in parallel.
        progress: Called with ("exclude", images read, images in all).
        quarantine: Gets a row for every benchmark that is not there, so cannot be left out.

    Raises:
        DatasetError: If none is there.
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
    """Identify some images of the benchmarks; one that cannot be read is passed over."""
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
        dataset: SegmentationDataset = source.open()
    except DatasetError as error:
        raise DatasetError(
            f"data.lisa.exclude_eval_images: none of {', '.join(benchmark_sets())} can be opened, "
            f"so nothing says which images to leave out ({error}); put one there, or set it to "
            "false"
        ) from None
    assert isinstance(dataset, LisaDataset)
    return dataset
