"""Errors in settings as one line: which file or ``--set``, which setting, what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import ValidationError

_UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden")
_SUGGESTIONS = 3
_SHOWN = 80


def describe(error: ValidationError, kind: Any, source: str, overrides: Sequence[str] = ()) -> str:
    """Return all problems of a configuration as one line.

    Args:
        error: From the validation.
        kind: The type of configuration.
        source: The file, or what else the settings come from.
        overrides: ``a.b=value`` texts on top of it.
    """
    by_origin: dict[str, list[str]] = {}
    for found in error.errors():
        path = ".".join(str(part) for part in found["loc"])
        problems = by_origin.setdefault(origin(path, source, overrides), [])
        problems.append(_problem(path, found, kind))
    return "; ".join(f"{place}: {'; '.join(problems)}" for place, problems in by_origin.items())


def origin(path: str, source: str, overrides: Sequence[str]) -> str:
    """Return the ``--set`` that sets a dotted path, or else the file."""
    for override in reversed(overrides):
        name = override.partition("=")[0].strip()
        if name == path or name.startswith(f"{path}.") or path.startswith(f"{name}."):
            return f"--set {override}"
    return f"reading {source}"


def _problem(path: str, error: Any, kind: Any) -> str:
    """Return one pydantic error as ``dotted.path: what is wrong``."""
    if error["type"] in _UNKNOWN_KEY:
        return f"{path}: unknown key{_suggestion(path, kind)}"
    found = repr(error.get("input"))
    message = str(error["msg"]).removeprefix("Value error, ")
    return (
        f"{path or 'the document'}: {message[0].lower()}{message[1:]}, "
        f"got {found if len(found) < _SHOWN else '...'}"
    )


def _suggestion(path: str, kind: Any) -> str:
    """Suggest settings for an unknown key: a similar one beside it, or its name elsewhere."""
    name = ".".join(part for part in path.split(".") if not part.isdigit())
    section, _, key = name.rpartition(".")
    known = [each.rpartition(".") for each in _names(kind)]
    beside = [own for parent, _, own in known if parent == section]
    close = [f"{section}.{own}".lstrip(".") for own in get_close_matches(key, beside, 1)]
    close += [f"{parent}.{own}" for parent, _, own in known if own == key and parent != section]
    return f"; did you mean {' or '.join(close[:_SUGGESTIONS])}?" if close else ""


def _names(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all sections and settings; entries of a list have no number."""
    for name, info in kind.__pydantic_fields__.items():
        yield prefix + name
        for part in (info.annotation, *get_args(info.annotation)[:1]):
            if is_dataclass(part):
                yield from _names(part, f"{prefix}{name}.")
