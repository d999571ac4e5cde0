"""Settings for people and editors: YAML with descriptions as comments, and JSON schema."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import yaml
from pydantic import TypeAdapter

from lens_cache.config.load import preset_files, to_tree

_WIDTH = 100


def to_commented_yaml(config: Any) -> str:
    """Return a configuration as YAML with every value, each below its description."""
    return "".join(_lines(config, to_tree(config), indent=""))


def yaml_value(value: object) -> str:
    """Return a plain value as YAML on one line."""
    text: str = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return text.removesuffix("...\n").rstrip()


def json_schema(kind: Any) -> dict[str, Any]:
    """Return the JSON schema of a configuration file, with all descriptions."""
    schema = TypeAdapter(kind).json_schema()
    presets = preset_files(kind)
    if presets and "preset" not in schema["properties"]:
        preset = {
            "anyOf": [{"enum": [*presets]}, {"type": "null"}],
            "default": None,
            "description": "The base that the other settings change.",
        }
        schema["properties"] = {"preset": preset, **schema["properties"]}
    return schema


def _lines(config: Any, tree: dict[str, Any], indent: str) -> Iterator[str]:
    for name, info in type(config).__pydantic_fields__.items():
        width = _WIDTH - len(indent) - len("# ")
        text = info.description.replace("\n", " ")
        yield from (f"{indent}# {line}\n" for line in textwrap.wrap(text, width))
        value = getattr(config, name)
        if is_dataclass(value):
            yield f"{indent}{name}:\n"
            yield from _lines(value, tree[name], f"{indent}  ")
        else:
            yield f"{indent}{name}: {yaml_value(tree[name])}\n"
