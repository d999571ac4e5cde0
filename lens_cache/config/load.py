"""Strict YAML -> typed configuration, with presets and dotted overrides."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from lens_cache.config.mistakes import describe, origin
from lens_cache.errors import ConfigError

T = TypeVar("T")
Tree = dict[str, Any]

_PRESETS = Path(__file__).parent / "presets"
# In a checkout a link to the folder configs; in a wheel a copy of it.
_SHIPPED = Path(__file__).parent / "shipped"


def load_config(
    kind: type[T],
    path: str | Path | Sequence[str | Path] | None = None,
    overrides: Iterable[str] = (),
) -> T:
    """Build a configuration from defaults, preset, files and overrides, in that order.

    Args:
        kind: ``ExtractConfig`` or ``TrainConfig``.
        path: A YAML file, or several that are merged key by key; later ones win. A name without a
            folder and suffix, such as ``coco``, is a file that comes with this package
            (``configs/``). Without a file only the defaults.
        overrides: ``a.b=value`` texts with the value in YAML; the last one wins.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown or a value does not fit. The
            message names the dotted path.
    """
    given = () if path is None else (path,) if isinstance(path, str | Path) else tuple(path)
    files = [config_file(one, getattr(kind, "presets", "")) for one in given]
    source = " and ".join(map(str, files)) or "the settings"
    overrides = tuple(overrides)
    tree: Tree = {}
    for file in files:
        tree = _merge(tree, read_yaml(file))
    for override in overrides:
        _set_dotted(tree, override)
    tree = _with_preset(kind, tree, origin("preset", source, overrides))
    return parse_config(kind, tree, source=source, overrides=overrides)


def config_file(path: str | Path, folder: str) -> Path:
    """Return a YAML file; a bare name is one of the files that come with this package.

    Args:
        path: A path, or a name such as ``coco``.
        folder: The folder of ``configs`` with such files: ``extract``, ``train`` or ``sweeps``.

    Raises:
        ConfigError: If it is a bare name and no file has it.
    """
    path = Path(path)
    if path.exists() or path.suffix or path.parent != Path():
        return path
    shipped = _SHIPPED / folder / f"{path}.yaml"
    if not shipped.exists():
        names = ", ".join(sorted(file.stem for file in (_SHIPPED / folder).glob("*.yaml")))
        raise ConfigError(
            f"reading the configuration {path}: expected a file, or one of {names}, found neither"
        )
    return shipped


def override_config(
    kind: type[T], tree: Mapping[str, Any], overrides: Iterable[str], *, source: str
) -> T:
    """Return stored settings with ``a.b=value`` overrides; errors name ``source``."""
    overrides = tuple(overrides)
    changed = copy.deepcopy(dict(tree))
    for override in overrides:
        _set_dotted(changed, override)
    return parse_config(kind, changed, source=source, overrides=overrides)


def parse_config(
    kind: type[T], tree: Mapping[str, Any], *, source: str, overrides: Iterable[str] = ()
) -> T:
    """Validate a tree of plain values.

    Args:
        kind: The type of configuration.
        tree: Nested mappings, lists and scalars.
        source: Where the tree comes from, named in errors.
        overrides: ``a.b=value`` texts that are already in the tree; an error in a value from one of
            them names it instead of ``source``.

    Raises:
        ConfigError: If a key is unknown or a value does not fit.
    """
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        raise ConfigError(describe(error, kind, source, tuple(overrides))) from None


def preset_files(kind: type) -> dict[str, Path]:
    """Return the YAML files of the presets of a kind of configuration, by name."""
    folder = _PRESETS / kind.presets if hasattr(kind, "presets") else None
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def to_tree(config: object) -> Tree:
    """Return a configuration as plain values that YAML, JSON and ``parse_config`` understand."""
    tree = TypeAdapter(type(config)).dump_python(config, mode="json")
    assert isinstance(tree, dict)
    return tree


def to_yaml(config: object) -> str:
    """Return a configuration as YAML with every value."""
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def read_yaml(path: Path) -> Tree:
    """Read a YAML mapping; an empty file is an empty mapping."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"reading the configuration {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"reading {path}: not valid YAML: {' '.join(str(error).split())}"
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"reading {path}: expected 'key: value' lines, found {type(tree).__name__}"
        )
    return tree


def _set_dotted(tree: Tree, override: str) -> None:
    """Apply one ``a.b=value`` in place."""
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set takes a.b=value, got {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {dotted}: {text!r} is not a YAML value") from None
    for key in keys[:-1]:
        branch = tree.setdefault(key, {})
        if branch is None:
            branch = tree[key] = {}
        if not isinstance(branch, dict):
            raise ConfigError(f"--set {dotted}: {key!r} is a value, not a section")
        tree = branch
    tree[keys[-1]] = value


def _with_preset(kind: type, tree: Tree, place: str) -> Tree:
    """Return the tree on top of the preset that it names."""
    files, name = preset_files(kind), tree.get("preset")
    if not files or name is None:
        return tree
    if name not in files:
        raise ConfigError(f"{place}: preset: expected one of {', '.join(files)}, got {name!r}")
    merged = _merge(read_yaml(files[name]), tree)
    if "preset" not in getattr(kind, "__dataclass_fields__", {}):
        del merged["preset"]
    return merged


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """Return ``base`` with ``over`` on top, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged
