"""Several sets of LISA's folder as one dataset, one after another."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from itertools import accumulate
from pathlib import PurePosixPath

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import ImageRecord, Rejected, SegmentationDataset, dataset_root
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.sets import MissingSetError, SetName, parse_set
from lens_cache.errors import ConfigError, DatasetError


class LisaDataset:
    """The sets of ``data.lisa.sets`` in that order; see ``LisaConfig``.

    Attributes:
        skipped: Why sets that were asked for are not part of it.
        sets: The sets that are.
        root: The folder of all.

    Raises:
        ConfigError: If a set is unknown or named twice, or in two variants.
        MissingSetError: If files of a set are missing, unless ``data.lisa.missing`` is ``skip``.
        DatasetError: If a set cannot be read.
    """

    name = "lisa"
    source = PurePosixPath(".")

    def __init__(self, config: DataConfig) -> None:
        root, lisa = dataset_root(config), config.lisa
        names = [parse_set(text, KINDS) for text in lisa.sets]
        twice = [str(name) for place, name in enumerate(names) if name in names[:place]]
        if twice:
            raise ConfigError(f"data.lisa.sets: {twice[0]} stands there twice")
        _refuse_mixed_variants(names)
        self.skipped: list[str] = []
        self.sets: dict[SetName, SegmentationDataset] = {}
        for name in names:
            try:
                self.sets[name] = KINDS[name.name].open(root, name, lisa.rules)
            except MissingSetError as error:
                if lisa.missing == "stop":
                    raise
                self.skipped.append(str(error))
        if not self.sets:
            raise DatasetError(
                f"opening the lisa dataset {root}: none of its sets is there; "
                f"`lens-cache data check {root}` says where to get them"
            )
        self.root = root
        self._opened = list(self.sets.values())
        lengths = [min(len(opened), config.limit or len(opened)) for opened in self._opened]
        self._ends = list(accumulate(lengths))

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """Entries that belong to no image, and the sets that were skipped."""
        skipped = [Rejected("set", reason) for reason in self.skipped]
        return (
            *skipped,
            *(
                Rejected(f"{opened.source}: {entry.what}", entry.reason)
                for opened in self._opened
                for entry in opened.rejected
            ),
        )

    def set_of(self, index: int) -> SetName:
        """Return the set that a record belongs to."""
        return list(self.sets)[bisect.bisect_right(self._ends, index)]

    @property
    def ranges(self) -> dict[SetName, range]:
        """Where the records of each set lie."""
        starts = [0, *self._ends]
        return dict(zip(self.sets, map(range, starts, self._ends), strict=True))

    def __len__(self) -> int:
        return self._ends[-1]

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> ImageRecord:
        place = bisect.bisect_right(self._ends, index)
        return self._opened[place][index - (self._ends[place - 1] if place else 0)]


def _refuse_mixed_variants(names: list[SetName]) -> None:
    """A plan tells sets and splits apart, not variants: two of them would give one mixed score."""
    seen: dict[tuple[str, str], SetName] = {}
    for name in names:
        other = seen.setdefault((name.name, name.split), name)
        if other != name:
            raise ConfigError(
                f"data.lisa.sets: {other} and {name} would be one split {name.split} of "
                f"{name.name}; plan them in two stores"
            )
