"""The documentation page of all settings, generated from their JSON schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import preset_files
from lens_cache.config.show import json_schema, yaml_value
from lens_cache.config.sweep import SweepConfig
from lens_cache.config.train import TrainConfig

_INTRODUCTION = """\
# Settings

<!-- Generated: lens-cache config docs > docs/settings.md -->

A YAML file lists the settings that differ from the defaults; give it with `-c FILE`.
`--set A.B=VALUE` changes one setting on top of the file, with the value in YAML:
`--set loss.dice=1`, `--set encoders.llava.layers=[8,14]`, `--set batch.split=null`. An unknown key
is an error.

`lens-cache config show extract` and `lens-cache config show train` print all settings with their
descriptions and values; with `-c` and `--set` they show what a command would use.
`lens-cache config show train --schema > train.schema.json` writes a JSON schema, with which editors
check and complete a file that starts with `# yaml-language-server: $schema=train.schema.json`.

Paths of stores and runs are not settings: they are arguments of the commands. "Empty" is `null` in
YAML.
"""
_PARTS = {"Extraction": ExtractConfig, "Training": TrainConfig, "Sweep": SweepConfig}

Schema = dict[str, Any]


def settings_page() -> str:
    """Return the page as Markdown."""
    lines = [_INTRODUCTION]
    for title, kind in _PARTS.items():
        schema = json_schema(kind)
        lines += [f"## {title}", "", schema["description"], ""]
        lines += _section(schema, schema["$defs"], prefix="")
        for name, path in preset_files(kind).items():
            lines += [f"### {title}: preset `{name}`", ""]
            lines += ["```yaml", path.read_text(encoding="utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


def _section(schema: Schema, known: dict[str, Schema], prefix: str) -> Iterator[str]:
    """Yield the settings of a section as a list, then its subsections."""
    inner = {name: _inner(entry, known) for name, entry in schema["properties"].items()}
    settings = [
        _setting(f"{prefix}{name}", entry)
        for name, entry in schema["properties"].items()
        if inner[name] is None or "$ref" not in entry
    ]
    if settings:
        yield from (*settings, "")
    for name, section in inner.items():
        if section is not None:
            yield from (f"### `{prefix}{name}`", "", section["description"], "")
            yield from _section(section, known, f"{prefix}{name}.")


def _inner(entry: Schema, known: dict[str, Schema]) -> Schema | None:
    """Return the section that a setting is, or that the entries of its list or mapping are."""
    for place in (entry, entry.get("items"), entry.get("additionalProperties")):
        if isinstance(place, dict) and "$ref" in place:
            return known[place["$ref"].rpartition("/")[2]]
    return None


def _setting(name: str, entry: Schema) -> str:
    default = f"default {_value(entry['default'])}" if "default" in entry else "required"
    if entry.get("type") == "object":
        default = "optional"
    text = entry["description"].replace("\n", " ")
    return f"- **`{name}`** ({_values(entry)}; {default}): {text}"


def _values(entry: Schema) -> str:
    """Return the values that a setting takes, in words."""
    if "enum" in entry or "const" in entry:
        return " or ".join(_value(value) for value in entry.get("enum", [entry.get("const")]))
    if "anyOf" in entry:
        return " or ".join(_values(choice) for choice in entry["anyOf"])
    if "prefixItems" in entry:
        return f"list of {len(entry['prefixItems'])}: {_values(entry['prefixItems'][0])}"
    if entry.get("type") == "array":
        return f"list of {_values(entry['items'])}"
    if "$ref" in entry:
        return "sections"
    if entry["type"] == "object":
        return "mapping"
    names = {"null": "empty", "string": "text", "boolean": "true or false"}
    kind: str = entry["type"]
    return names.get(kind, kind) + _bounds(entry)


def _bounds(entry: Schema) -> str:
    symbols = {
        "exclusiveMinimum": ">",
        "minimum": ">=",
        "exclusiveMaximum": "<",
        "maximum": "<=",
    }
    bounds = [f"{symbol} {entry[key]:.10g}" for key, symbol in symbols.items() if key in entry]
    return " " + " and ".join(bounds) if bounds else ""


def _value(value: object) -> str:
    return "empty" if value is None else f"`{yaml_value(value)}`"
