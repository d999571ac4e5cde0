"""Commands that show settings."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from lens_cache.errors import ConfigError
from pipelines.cli.options import ConfigFiles, Json, Overrides

app = typer.Typer(help="Show settings and what they mean.", no_args_is_help=True)


@app.command("show")
def show_config(
    kind: Annotated[
        Literal["extract", "train"], typer.Argument(metavar="extract|train", help="Which settings.")
    ],
    config: ConfigFiles = None,
    overrides: Overrides = None,
    as_json: Json = False,
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Print the JSON schema of a settings file, for editors."),
    ] = False,
) -> None:
    """Print all settings as YAML, each with its description and its value."""
    from lens_cache.config.extract import ExtractConfig
    from lens_cache.config.load import load_config, to_tree
    from lens_cache.config.show import json_schema, to_commented_yaml
    from lens_cache.config.train import TrainConfig

    chosen: type[Any] = ExtractConfig if kind == "extract" else TrainConfig
    if schema:
        if config or overrides or as_json:
            raise ConfigError("showing settings: --schema cannot be combined with other options")
        print(json.dumps(json_schema(chosen), indent=2))
        return
    settings = load_config(chosen, config, overrides or ())
    if as_json:
        print(json.dumps(to_tree(settings), indent=2))
    else:
        print(to_commented_yaml(settings), end="")


@app.command("docs")
def write_docs() -> None:
    """Print the documentation of all settings as Markdown (docs/settings.md)."""
    from pipelines.reports.settings_page import settings_page

    print(settings_page(), end="")
