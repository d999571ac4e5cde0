"""The sets of LISA's folder, concatenated to one dataset."""

from __future__ import annotations

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import Rejected, SegmentationDataset, dataset_root
from lens_cache.datasets.joined import JoinedDataset
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.sets import MissingSetError, SetName, parse_set
from lens_cache.errors import ConfigError, DatasetError


class LisaDataset(JoinedDataset):
    """The sets of ``data.lisa.sets``, in that order; see ``LisaConfig``.

    Attributes:
        root: LISA's folder.
        sets: The open sets.
        skipped: For each set that was skipped, the reason.
        rejected: The skipped sets, and entries that belong to no image.

    Raises:
        ConfigError: If a set is unknown, or named twice or in two variants.
        MissingSetError: If files of a set are missing, unless ``data.lisa.missing`` is ``skip``.
        DatasetError: If a set cannot be read.
    """

    def __init__(self, config: DataConfig) -> None:
        self.root = dataset_root(config)
        lisa = config.lisa
        names = [parse_set(text, KINDS) for text in lisa.sets]
        _refuse_repeated_sets(names)
        self.skipped: list[str] = []
        self.sets: dict[SetName, SegmentationDataset] = {}
        for name in names:
            try:
                self.sets[name] = KINDS[name.name].open(self.root, name, lisa.rules)
            except MissingSetError as error:
                if lisa.missing == "stop":
                    raise
                self.skipped.append(str(error))
        if not self.sets:
            raise DatasetError(
                f"opening the lisa dataset {self.root}: none of its sets was found; run "
                f"`lens-cache data check {self.root}` to see where to get them"
            )
        super().__init__("lisa", list(self.sets.values()), config.limit)
        self.rejected = (*(Rejected("set", reason) for reason in self.skipped), *self.rejected)

    @property
    def ranges_of_sets(self) -> dict[SetName, range]:
        """The record indices of each set."""
        return dict(zip(self.sets, self.ranges, strict=True))

    def set_of(self, index: int) -> SetName:
        """Return the set that a record belongs to."""
        return list(self.sets)[self.part_of(index)]


def _refuse_repeated_sets(names: list[SetName]) -> None:
    """Raise ConfigError if a set is named twice, or in two variants.

    A plan distinguishes sets and splits but not variants, so two variants would be scored as one.
    """
    twice = [str(name) for position, name in enumerate(names) if name in names[:position]]
    if twice:
        raise ConfigError(f"data.lisa.sets: {twice[0]} is named twice")
    seen: dict[tuple[str, str], SetName] = {}
    for name in names:
        other = seen.setdefault((name.name, name.split), name)
        if other != name:
            raise ConfigError(
                f"data.lisa.sets: {other} and {name} would be one split {name.split} of "
                f"{name.name}; plan them in two stores"
            )
