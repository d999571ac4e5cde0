"""Commands that show settings."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import typer

from pipelines.cli.options import ConfigFile, Json, Overrides

app = typer.Typer(help="Look at settings.", no_args_is_help=True)


@app.command("show")
def show_config(
    kind: Annotated[Literal["extract", "train"], typer.Argument(help="Which settings.")],
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Print settings with every default written out."""
    from lens_cache.config.extract import ExtractConfig
    from lens_cache.config.load import load_config, to_tree, to_yaml
    from lens_cache.config.train import TrainConfig

    chosen: type[Any] = ExtractConfig if kind == "extract" else TrainConfig
    settings = load_config(chosen, config, overrides or ())
    print(json.dumps(to_tree(settings), indent=2) if as_json else to_yaml(settings), end="")
