"""Run planning in parallel: a dataset that other processes can open, and the mapper interface.

A plan does not depend on the mapper: results come back in the order of the chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import SegmentationDataset
from lens_cache.datasets.lisa.dataset import LisaDataset
from lens_cache.datasets.lisa.evaluation_images import EvaluationImages, WithoutEvaluation
from lens_cache.datasets.registry import open_dataset

C = TypeVar("C")
R = TypeVar("R")

# Records per chunk: enough to make the cost of another process or thread small.
CHUNK = 32


class DataSource:
    """A dataset that any process can open: only its settings are pickled; it opens on first use.

    Args:
        config: The settings.
        excluded: Images to skip in training splits, if any.
    """

    def __init__(self, config: DataConfig, excluded: EvaluationImages | None = None) -> None:
        self.config = config
        self.excluded = excluded
        self._dataset: SegmentationDataset | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return DataSource, (self.config, self.excluded)

    def open(self) -> SegmentationDataset:
        """Return the dataset; later calls return the same object.

        Raises:
            ConfigError: If a setting does not fit the dataset.
            DatasetError: If it cannot be read.
        """
        if self._dataset is None:
            self._dataset = open_dataset(self.config)
            if self.excluded is not None and isinstance(self._dataset, LisaDataset):
                self._dataset = WithoutEvaluation(self._dataset, self.excluded)
        return self._dataset

    def without(self, excluded: EvaluationImages) -> DataSource:
        """Return the same dataset with images skipped in training splits."""
        source = DataSource(self.config, excluded)
        if isinstance(self._dataset, LisaDataset):
            source._dataset = WithoutEvaluation(self._dataset, excluded)
        return source


class Mapper(Protocol):
    """Applies a function to chunks in parallel."""

    def __call__(
        self, source: DataSource, function: Callable[[DataSource, C], R], chunks: Sequence[C]
    ) -> Iterator[R]:
        """Yield ``function(source, chunk)`` for every chunk, in order.

        Args:
            source: The dataset; opened at most once per process.
            function: A module-level function, or a partial of one: it must be picklable.
            chunks: Arguments of the calls.
        """
        ...


def in_threads(threads: int = 4) -> Mapper:
    """Return a mapper that uses threads of this process."""

    def mapper(
        source: DataSource, function: Callable[[DataSource, C], R], chunks: Sequence[C]
    ) -> Iterator[R]:
        source.open()  # before the threads start: opening is not thread-safe
        waiting: deque[Future[R]] = deque()
        pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="plan")
        try:
            for chunk in chunks:
                waiting.append(pool.submit(function, source, chunk))
                if len(waiting) >= 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    return mapper
