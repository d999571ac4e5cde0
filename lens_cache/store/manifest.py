"""The manifest: what a store contains; written first with ``complete: false``, completed last."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from lens_cache.config.data import DataConfig
from lens_cache.config.extract import (
    EncodersConfig,
    ExtractConfig,
    PrecisionConfig,
    StoreConfig,
)
from lens_cache.config.fields import StoreFormat
from lens_cache.config.load import override_config, parse_config
from lens_cache.errors import ConfigError, StoreError, StoreMismatchError
from lens_cache.store.io.files import read_json, write_json
from lens_cache.store.io.remote import is_remote, plain_errors, store_path
from lens_cache.store.layout import GROUPS, ArraySpec, Group, in_precision, is_prefix
from lens_cache.store.paths import MANIFEST_FILE, SPARE_MANIFEST, is_inside
from lens_cache.store.precision import TokenCode

FORMAT = "lens-cache store"
FORMAT_VERSION = 1

Fingerprint = Mapping[str, Any]
Section = TypeVar("Section")


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """The plan that a store was extracted from.

    Attributes:
        digest: SHA-256 of its content.
        images: Number of images.
        queries: Number of queries.
        quarantined: Files and queries that it skipped.
    """

    digest: str
    images: int
    queries: int
    quarantined: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store contains.

    Attributes:
        code_version: Version of this package that created the store.
        complete: Whether every shard of every group has been committed.
        config: The sections ``data``, ``encoders`` and ``store`` of the extraction's settings, as
            they are in the file. Read them by the properties of these names.
        plan: Digest and counts of the plan.
        side: Side of the square frame in pixels.
        fingerprints: Per feature group everything that decides its bytes.
        arrays: Per feature group its arrays by name; see ``array_name``.
    """

    code_version: str
    complete: bool
    config: dict[str, Any]
    plan: PlanSummary
    side: int
    fingerprints: dict[str, dict[str, Any]]
    arrays: dict[str, dict[str, ArraySpec]]

    @cached_property
    def data(self) -> DataConfig:
        """The settings that the data was planned with; raises StoreError if they are unknown."""
        return self._section("data", DataConfig)

    @cached_property
    def encoders(self) -> EncodersConfig:
        """The settings of the frozen models; raises StoreError if they are unknown."""
        return self._section("encoders", EncodersConfig)

    @cached_property
    def store(self) -> StoreConfig:
        """The layout of the store; raises StoreError if it is unknown."""
        return self._section("store", StoreConfig)

    @property
    def data_root(self) -> Path:
        """The folder of the images; raises StoreError if the data had none."""
        if self.data.root is None:
            raise StoreError("the store was made without data.root; give the images' folder")
        return self.data.root

    @property
    def format(self) -> StoreFormat:
        """The format of the features; Zarr if the manifest does not name one."""
        return self.store.format

    @property
    def precision(self) -> PrecisionConfig:
        """The stored precision; the model's if the manifest does not name one."""
        return self.store.precision

    @property
    def layers(self) -> tuple[int, ...]:
        """The tapped layers whose states are stored."""
        return tuple(self.fingerprints["hidden_states"]["layers"])

    @cached_property
    def specs(self) -> dict[str, ArraySpec]:
        """The arrays of all groups by name."""
        return {name: spec for group in self.arrays.values() for name, spec in group.items()}

    def content(self, group: Group) -> dict[str, Any]:
        """Return everything that decides a group's bytes: its fingerprint and its precision.

        Readers of features compare ``fingerprints``; writers, who must not mix, compare this.
        """
        return {**self.fingerprints[group], "precision": getattr(self.precision, group)}

    def content_digest(self, group: Group) -> str:
        """Return a SHA-256 of plan and ``content``, which every commit of the group has."""
        document = {"plan": self.plan.digest, "content": self.content(group)}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    def in_format(self, wanted: StoreFormat) -> Manifest:
        """Return the manifest of the same store in a format."""
        return self._with_store({"format": wanted} if wanted != "zarr" else {}, without="format")

    def in_precision(self, wanted: PrecisionConfig) -> Manifest:
        """Return the manifest of a store that keeps the same features in a precision."""
        arrays: dict[str, dict[str, ArraySpec]] = {
            group: {
                name: spec if is_prefix(name) else in_precision(spec, getattr(wanted, group))
                for name, spec in self.arrays[group].items()
            }
            for group in GROUPS
        }
        made = self._with_store({"precision": dataclasses.asdict(wanted)}, without="precision")
        return dataclasses.replace(made, arrays=arrays)

    def _with_store(self, settings: dict[str, Any], *, without: str) -> Manifest:
        store = {k: v for k, v in self.config["store"].items() if k != without}
        return dataclasses.replace(self, config={**self.config, "store": {**store, **settings}})

    def _section(self, name: str, kind: type[Section]) -> Section:
        source = f"the section {name!r} of a store's {MANIFEST_FILE}"
        try:
            return parse_config(kind, self.config.get(name, {}), source=source)
        except ConfigError as error:
            raise StoreError(
                f"{error}; the store was created by lens-cache {self.code_version}: use that "
                "version, or extract into a new store"
            ) from None

    def save(self, root: Path) -> None:
        """Write ``manifest.json`` atomically."""
        document = {"format": FORMAT, "format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        write_json(root, root / MANIFEST_FILE, document)

    @classmethod
    def load(cls, root: str | Path) -> Manifest:
        """Read ``manifest.json``.

        Args:
            root: Folder or URL of a store, or folder of a training run.

        Raises:
            StoreError: If ``root`` is no store, or one of a format that this version cannot read.
        """
        root = store_path(root)
        with plain_errors(root, "opening the store"):
            if not is_remote(root) and not root.is_dir():
                raise StoreError(
                    f"opening the store {root}: no such folder; run `lens-cache extract`"
                )
            if not (root / MANIFEST_FILE).exists():
                spare = (root / SPARE_MANIFEST).exists()
                run = "verify STORE --repair" if spare else "extract"
                raise StoreError(
                    f"opening the store {root}: there is no {MANIFEST_FILE}; run `lens-cache {run}`"
                )
            document = read_json(root / MANIFEST_FILE, purpose=f"opening the store {root}")
        try:
            manifest = cls._from_document(root, document)
        except (KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"opening the store {root}: {MANIFEST_FILE} is not a manifest ({error})"
            ) from None
        try:
            _ = manifest.store  # every reader needs it
        except StoreError as error:
            raise StoreError(f"opening the store {root}: {error}") from None
        return manifest

    @classmethod
    def _from_document(cls, root: Path, document: dict[str, Any]) -> Manifest:
        found = (document.pop("format"), document.pop("format_version"))
        if found != (FORMAT, FORMAT_VERSION):
            raise StoreError(
                f"opening the store {root}: expected {FORMAT} version {FORMAT_VERSION}, "
                f"found {found[0]} version {found[1]}"
            )
        paths = [spec["path"] for specs in document["arrays"].values() for spec in specs.values()]
        if outside := [path for path in paths if not is_inside(path)]:
            raise StoreError(
                f"opening the store {root}: {MANIFEST_FILE} names an array outside the store, "
                f"{outside[0]!r}; do not use this store"
            )
        document["plan"] = PlanSummary(**document["plan"])
        document["arrays"] = {
            group: {name: _array_spec(spec) for name, spec in specs.items()}
            for group, specs in document["arrays"].items()
        }
        return cls(**document)


def differences(
    stored: Fingerprint, wanted: Fingerprint, *, where: str = "in the store"
) -> list[str]:
    """Return ``field: stored, wanted`` for every field in which two fingerprints differ."""
    fields = sorted(stored.keys() | wanted.keys())
    return [
        f"{field} is {_short(stored.get(field))} {where} and {_short(wanted.get(field))} here"
        for field in fields
        if stored.get(field) != wanted.get(field)
    ]


def require_same(root: Path, what: str, stored: Fingerprint, wanted: Fingerprint, run: str) -> None:
    """Refuse a configuration that differs from the store's (invariant I5).

    Args:
        root: The store, for the message.
        what: Which part is compared, for the message.
        stored: The store's fingerprint.
        wanted: The configuration's fingerprint.
        run: What the user can do, for the message.

    Raises:
        StoreMismatchError: If they differ; the message names every differing field.
    """
    found = differences(stored, wanted)
    if found:
        raise StoreMismatchError(f"{what} of the store {root}: {'; '.join(found)}. {run}")


def _array_spec(fields: dict[str, Any]) -> ArraySpec:
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    code = plain.pop("code", None)
    return ArraySpec(**plain, code=TokenCode(**code) if code else None)


def _short(value: object) -> str:
    """Return a value for a message; digests are shortened."""
    text = str(value)
    return text if len(text) <= 80 else text[:16] + "..."


def with_overrides(manifest: Manifest, overrides: Iterable[str] = ()) -> ExtractConfig:
    """Return the settings a store was made with, paths absolute, with ``a.b=value`` on top."""
    return override_config(ExtractConfig, manifest.config, overrides, source="the store's settings")
