"""The sets of LISA's folder: names, groups, splits, variants, and the function that opens each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lens_cache.config.data import Rules
from lens_cache.datasets.base import SegmentationDataset
from lens_cache.datasets.lisa.misplaced import misplaced
from lens_cache.errors import ConfigError, DatasetError

Group = Literal["semantic", "referring", "reasoning"]


class MissingSetError(DatasetError):
    """Files of a set are missing from LISA's layout; the message says where to get them."""


@dataclass(frozen=True)
class SetName:
    """One split of one set; ``variant`` is empty if the set has no variants."""

    name: str
    variant: str
    split: str

    def __str__(self) -> str:
        return "|".join(part for part in (self.name, self.variant, self.split) if part)


class Opener(Protocol):
    """Opens a set below LISA's root.

    The paths of the records are relative to ``root``. The queries of a record are in the order of
    LISA's own list, from which its sampler draws: classes by pixel value, annotations and
    sentences as in the file.
    """

    def __call__(self, root: Path, name: SetName, rules: Rules) -> SegmentationDataset:
        """Open the set.

        Raises:
            MissingSetError: If files are missing.
            DatasetError: If files cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class SetKind:
    """Properties of a set that are known before it is opened.

    Attributes:
        group: Its group in LISA's sampler.
        splits: Its splits, the default first; the training split of every set is ``train``.
        open: The function that opens it.
        source: Where to get it, for messages.
        variants: Its versions or ways of splitting, the default first.
        folder: Its folder below LISA's root, if LISA itself does not use the set: then it is
            checked and looked for only where that exists.
    """

    group: Group
    splits: tuple[str, ...]
    open: Opener
    source: str
    variants: tuple[str, ...] = ("",)
    folder: str | None = None

    def expected(self, root: Path) -> bool:
        """Return whether the set should be below a root: one of LISA's, or there already."""
        return self.folder is None or (root / self.folder).is_dir()

    def parse(self, text: str) -> SetName:
        """Parse ``name``, ``name|split``, ``name|variant`` or ``name|variant|split``.

        Raises:
            ConfigError: If there is no such split or variant.
        """
        name, *rest = text.split("|")
        variant = rest.pop(0) if rest and rest[0] in self.variants else self.variants[0]
        split = rest.pop(0) if rest else self.splits[0]
        if rest or split not in self.splits:
            variants = f"; variants are {', '.join(self.variants)}" if any(self.variants) else ""
            raise ConfigError(
                f"data.lisa.sets: {text!r} is not a split of {name}; splits are "
                f"{', '.join(self.splits)}{variants}"
            )
        return SetName(name, variant, split)


def require_files(root: Path, name: SetName, paths: Iterable[str], source: str) -> None:
    """Check that files or folders of a set exist; paths are relative to ``root``.

    Raises:
        MissingSetError: If some are missing; the message lists them all.
    """
    missing = [path for path in paths if not (root / path).exists()]
    if missing:
        raise MissingSetError(
            f"opening {name}: {', '.join(missing)} not found in {root}; "
            f"{misplaced(root, missing) or source}, or remove the set from data.lisa.sets, or set "
            "data.lisa.missing=skip"
        )


def parse_set(text: str, kinds: Mapping[str, SetKind]) -> SetName:
    """Parse a set of ``data.lisa.sets``; see ``SetKind.parse``.

    Raises:
        ConfigError: If there is no such set, split or variant.
    """
    name = text.partition("|")[0]
    if name not in kinds:
        raise ConfigError(f"data.lisa.sets: no set {name!r}; sets are {', '.join(kinds)}")
    return kinds[name].parse(text)
