"""Several datasets of one root as one."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from pathlib import PurePosixPath

from lens_cache.datasets.base import ImageRecord, Rejected, SegmentationDataset


class JoinedDataset(SegmentationDataset):
    """The records of its parts, one part after the other.

    Args:
        name: Name of the whole.
        parts: The parts, at least one.
        limit: Keep only the first N records of each part; all if None.
    """

    source = PurePosixPath(".")

    def __init__(
        self, name: str, parts: Sequence[SegmentationDataset], limit: int | None = None
    ) -> None:
        self.name = name
        self._parts = tuple(parts)
        self._ends = list(accumulate(min(len(part), limit or len(part)) for part in parts))
        self.rejected = tuple(
            Rejected(f"{part.source}: {entry.what}", entry.reason)
            for part in parts
            for entry in part.rejected
        )

    @property
    def listing(self) -> tuple[PurePosixPath, ...]:
        """The files that list the parts; parts that are listed by their folder have none."""
        return tuple(path for part in self._parts for path in part.listing)

    @property
    def mask_files(self) -> Iterable[PurePosixPath]:
        """The files of masks of all parts."""
        return chain.from_iterable(part.mask_files for part in self._parts)

    @property
    def ranges(self) -> list[range]:
        """The indices of each part's records."""
        return list(map(range, [0, *self._ends], self._ends))

    def part_of(self, index: int) -> int:
        """Return the number of the part that a record belongs to."""
        return bisect.bisect_right(self._ends, index)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> ImageRecord:
        part = self.part_of(index)
        return self._parts[part][index - self.ranges[part].start]
