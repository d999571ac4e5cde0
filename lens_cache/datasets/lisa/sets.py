"""The sets of LISA's folder: their names, groups, splits and variants, and what opens each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from lens_cache.config.data import Rules
from lens_cache.datasets.base import SegmentationDataset
from lens_cache.datasets.lisa.misplaced import slip
from lens_cache.errors import ConfigError, DatasetError

Group = Literal["semantic", "referring", "reasoning"]


class MissingSetError(DatasetError):
    """A set whose files are not where LISA's layout has them; the message says where to get it."""


@dataclass(frozen=True)
class SetName:
    """One split of one set; ``variant`` is empty where there are none."""

    name: str
    variant: str
    split: str

    def __str__(self) -> str:
        return "|".join(part for part in (self.name, self.variant, self.split) if part)


class Opener(Protocol):
    """Opens a set below LISA's root.

    The records' paths are relative to ``root``. ``queries`` of a record stand in the order of
    LISA's own list, from which its sampler draws: classes by pixel value, annotations and
    sentences as in the file.
    """

    def __call__(self, root: Path, name: SetName, rules: Rules) -> SegmentationDataset:
        """Open it.

        Raises:
            MissingSetError: If files are not there.
            DatasetError: If they cannot be read.
        """


@dataclass(frozen=True, kw_only=True)
class SetKind:
    """What is known of a set before it is opened.

    Attributes:
        group: Which of the sampler's groups it belongs to.
        splits: Its splits, the default first; ``train`` names the training split of every set.
        variants: Its versions or ways of splitting, the default first.
        open: What opens it.
        source: Where to get it, for messages.
    """

    group: Group
    splits: tuple[str, ...]
    open: Opener
    source: str
    variants: tuple[str, ...] = ("",)

    def parse(self, text: str) -> SetName:
        """Read ``name``, ``name|split``, ``name|variant`` or ``name|variant|split``.

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
    """Check that files or folders of a set exist, given relative to ``root``.

    Raises:
        MissingSetError: Naming all that are not there.
    """
    missing = [path for path in paths if not (root / path).exists()]
    if missing:
        raise MissingSetError(
            f"opening {name}: {', '.join(missing)} not found in {root}; "
            f"{slip(root, missing) or source}, or leave the set out of data.lisa.sets, or set "
            "data.lisa.missing=skip"
        )


def parse_set(text: str, kinds: Mapping[str, SetKind]) -> SetName:
    """Read a set as a configuration names it.

    Raises:
        ConfigError: If there is no such set, split or variant.
    """
    name = text.partition("|")[0]
    if name not in kinds:
        raise ConfigError(f"data.lisa.sets: no set {name!r}; sets are {', '.join(kinds)}")
    return kinds[name].parse(text)
