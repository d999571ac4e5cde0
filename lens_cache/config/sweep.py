"""A sweep: rows of settings that are trained on the same data and compared, as a YAML file.

    name: ablations
    splits: [test, val]
    base: [preset=tiny, model.layer=4, batch.split=train]
    rows:
      - name: LENS
      - name: w/o L_attn
        set: [loss.attention=0]
        paper: {test: {giou: 51.7, ciou: 50.8}}

Rows are compared with the first one, seed by seed, on the first split. To make seeds comparable,
every row trains on the same batches for the same steps: set ``batch`` and ``trainer`` in the base.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import field
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from lens_cache.config.fields import strict
from lens_cache.config.load import config_file, load_config, parse_config, read_yaml
from lens_cache.config.train import TrainConfig
from lens_cache.errors import ConfigError

Percent = Annotated[float, Field(ge=0, le=100)]
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True, config=strict)
class Published:
    """Figures of a publication for a row, in percent. They are cited next to the measurements."""

    giou: Percent
    """gIoU in percent."""
    ciou: Percent
    """cIoU in percent."""


@dataclass(frozen=True, kw_only=True, config=strict)
class RowConfig:
    """One row of the table: the base with changes."""

    name: Text
    """Name of the row in tables."""
    set: tuple[str, ...] = ()
    """`a.b=value` texts on top of the base; `preset=...` changes the settings that the base does
    not name."""
    paper: dict[str, Published] = field(default_factory=dict)
    """Published figures by split."""

    @property
    def folder(self) -> str:
        """Name of the folder of the row's runs."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


@dataclass(frozen=True, kw_only=True, config=strict)
class SweepConfig:
    """A sweep file for `lens-cache sweep`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]
    """Name of the sweep, and of the files with its results."""
    source: str = ""
    """Source of the published figures."""
    splits: Annotated[tuple[Text, ...], Field(min_length=1)] = ("test",)
    """Splits to measure on; rows are compared on the first."""
    base: tuple[str, ...] = ()
    """`a.b=value` texts for every row."""
    rows: Annotated[tuple[RowConfig, ...], Field(min_length=2)]
    """The rows; all others are compared with the first."""


def load_sweep(path: str | Path) -> SweepConfig:
    """Read a sweep, a file or a name such as ``ablations``, and check every row of it.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown, a setting does not fit, or rows
            cannot be compared; the message names the row.
    """
    path = config_file(path, "sweeps")
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
    """Return the settings of a row.

    Args:
        sweep: The sweep.
        row: One of its rows.
        seed: Value of ``trainer.seed``: initialisation and order of the data.
        steps: Value of ``trainer.max_steps``; by default that of the base.

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
                    f"row {row.name!r}: its {section} settings differ from those of "
                    f"{first.name!r}; set {section} in the base, so that all rows see the "
                    "same data and steps"
                )
        twin = seen.setdefault(dataclasses.replace(settings, preset="paper"), row.name)
        if twin != row.name:
            raise ConfigError(f"row {row.name!r}: same settings as {twin!r}; remove one")
