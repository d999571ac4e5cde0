"""Strict YAML -> typed configuration, with presets and dotted overrides."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from lens_cache.config.presets import PRESETS
from lens_cache.errors import ConfigError

T = TypeVar("T")
Tree = dict[str, Any]


def load_config(kind: type[T], path: str | Path | None = None, overrides: Iterable[str] = ()) -> T:
    """Build a configuration from defaults, preset, file and overrides, in that order.

    Args:
        kind: ``ExtractConfig`` or ``TrainConfig``.
        path: A YAML file; defaults only if not given.
        overrides: ``a.b=value`` texts, the value written as YAML; the last one wins.

    Raises:
        ConfigError: If the file cannot be read, a key is unknown or a value does not fit. The
            message names the dotted path.
    """
    tree = read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        _set_dotted(tree, override)
    preset = tree.get("preset", "paper")
    if isinstance(preset, str) and "preset" in getattr(kind, "__dataclass_fields__", {}):
        tree = _merge(PRESETS.get(preset, {}), tree)
    return parse_config(kind, tree, source=str(path) if path is not None else "the settings")


def override_config(
    kind: type[T], tree: Mapping[str, Any], overrides: Iterable[str], *, source: str
) -> T:
    """Return stored settings with ``a.b=value`` texts on top; ``source`` is named in the error."""
    changed = copy.deepcopy(dict(tree))
    for override in overrides:
        _set_dotted(changed, override)
    return parse_config(kind, changed, source=source)


def parse_config(kind: type[T], tree: Mapping[str, Any], *, source: str) -> T:
    """Validate a tree of plain values; ``source`` is named in the error."""
    try:
        return TypeAdapter(kind).validate_python(tree)
    except ValidationError as error:
        problems = "; ".join(_describe(e) for e in error.errors())
        raise ConfigError(f"reading {source}: {problems}") from None


def to_tree(config: object) -> Tree:
    """Return a configuration as plain values that YAML, JSON and ``parse_config`` understand."""
    tree = TypeAdapter(type(config)).dump_python(config, mode="json")
    assert isinstance(tree, dict)
    return tree


def to_yaml(config: object) -> str:
    """Return a configuration as YAML, every value written out."""
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


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Tree:
    """Return ``base`` with ``over`` on top, section by section."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(below, value) if both else value  # type: ignore[arg-type]
    return merged


def _describe(error: Any) -> str:
    """Return one pydantic error as ``dotted.path: what is wrong``."""
    path = ".".join(str(part) for part in error["loc"]) or "the document"
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{path}: unknown key"
    found = repr(error.get("input"))
    message = str(error["msg"])
    return f"{path}: {message[0].lower()}{message[1:]}, got {found if len(found) < 80 else '...'}"
