"""A sweep: rows of settings that are trained alike and compared, as a YAML file.

    name: ablations
    splits: [test, val]
    base: [preset=tiny, model.layer=4, batch.split=train]
    rows:
      - name: LENS
      - name: w/o L_attn
        set: [loss.attention=0]
        paper: {test: {giou: 51.7, ciou: 50.8}}

Rows are compared with the first one, seed by seed, on the first split. So that seeds pair, every
row trains on the same batches for the same steps: ``batch`` and ``trainer`` are set in the base.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from lens_cache.config.load import load_config, parse_config, read_yaml
from lens_cache.config.train import TrainConfig
from lens_cache.errors import ConfigError

_strict = ConfigDict(extra="forbid")
Percent = Annotated[float, Field(ge=0, le=100)]
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=_strict)
class Published:
    """What a publication reports of a row, in percent: cited, and never mixed with measurements."""

    giou: Percent
    ciou: Percent


@dataclass(frozen=True, kw_only=True, config=_strict)
class RowConfig:
    """One row.

    Attributes:
        name: What it is called in tables.
        set: ``a.b=value`` texts on top of the base's; ``preset=...`` replaces what the base does
            not name.
        paper: Published figures by split.
    """

    name: Text
    set: tuple[str, ...] = ()
    paper: dict[str, Published] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The name as a folder's."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True, kw_only=True, config=_strict)
class SweepConfig:
    """The file.

    Attributes:
        name: Name of the files that tell of it.
        source: Where the published figures stand.
        splits: Where rows are measured; they are compared on the first.
        base: ``a.b=value`` texts that every row starts from.
        rows: The first is what the others are compared with.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    source: str = ""
    splits: Annotated[tuple[Text, ...], Field(min_length=1)] = ("test",)
    base: tuple[str, ...] = ()
    rows: Annotated[tuple[RowConfig, ...], Field(min_length=2)]


def load_sweep(path: Path) -> SweepConfig:
    """Read a sweep and check every row of it.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown, a setting does not fit, or rows
            cannot be compared; the message names the row.
    """
    tree = read_yaml(path)
    rows = tree.get("rows")
    for number, row in enumerate(rows if isinstance(rows, list) else (), start=1):
        name = row.get("name", number) if isinstance(row, dict) else number
        parse_config(RowConfig, row, source=f"{path}, row {name!r}")
    sweep = parse_config(SweepConfig, tree, source=str(path))
    try:
        _check(sweep)
    except ConfigError as error:
        raise ConfigError(f"reading {path}: {error}") from None
    return sweep


def row_settings(
    sweep: SweepConfig, row: RowConfig, *, seed: int = 0, steps: int | None = None
) -> TrainConfig:
    """Return what a row is trained with.

    Args:
        sweep: The sweep.
        row: One of its rows.
        seed: Initialisation and order of the data.
        steps: In the place of the base's ``trainer.max_steps``, if given.

    Raises:
        ConfigError: If an override does not fit; the message names the row.
    """
    own = [f"trainer.seed={seed}"]
    own += [] if steps is None else [f"trainer.max_steps={steps}"]
    try:
        return load_config(TrainConfig, None, [*sweep.base, *row.set, *own])
    except ConfigError as error:
        raise ConfigError(f"row {row.name!r}: {error}") from None


def _check(sweep: SweepConfig) -> None:
    first, folders, seen = sweep.rows[0], set[str](), dict[TrainConfig, str]()
    reference = row_settings(sweep, first)
    for row in sweep.rows:
        if not row.folder or row.folder in folders:
            raise ConfigError(
                f"row {row.name!r}: expected a name with letters or digits that no other row has"
            )
        folders.add(row.folder)
        unknown = sorted(row.paper.keys() - set(sweep.splits))
        if unknown:
            raise ConfigError(
                f"row {row.name!r}: paper has figures of {', '.join(unknown)}, but the splits are "
                f"{', '.join(sweep.splits)}"
            )
        settings = row_settings(sweep, row)
        for section in ("batch", "trainer"):
            if getattr(settings, section) != getattr(reference, section):
                raise ConfigError(
                    f"row {row.name!r}: its {section} settings are not those of {first.name!r}; "
                    f"set {section} in the base, so that all rows see the same data and steps"
                )
        twin = seen.setdefault(dataclasses.replace(settings, preset="paper"), row.name)
        if twin != row.name:
            raise ConfigError(f"row {row.name!r}: its settings are those of {twin!r}; remove one")
