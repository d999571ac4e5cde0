"""The command line: parse, call, print. Commands import heavy packages when they run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lens_cache.errors import ConfigError, LensCacheError, StoreMismatchError, one_line
from lens_cache.version import __version__
from pipelines.cli import benchmarks, config, data, demo, evaluation, results, runs, stores, use
from pipelines.interrupt import Interrupted, resume_command

app = typer.Typer(
    name="lens-cache",
    help="LENS segmentation for frozen multimodal LLMs, trained from a feature cache.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# Commands at the top level, in the order of ``--help``.
for commands in (stores.app, runs.app, evaluation.app, results.app, use.app, demo.app):
    app.add_typer(commands)
app.add_typer(data.app, name="data")
app.add_typer(config.app, name="config")
app.add_typer(benchmarks.app, name="benchmark")


def main() -> None:
    """Run the command line; an expected error becomes one line and an exit code."""
    try:
        app(standalone_mode=True)
    except Interrupted as stopped:
        print(
            f"lens-cache: {stopped}; resume with: {resume_command(sys.argv[1:])}", file=sys.stderr
        )
        raise SystemExit(128 + stopped.signum) from None
    except (ConfigError, StoreMismatchError) as error:
        _fail(error, 2)
    except LensCacheError as error:
        _fail(error, 1)
    except OSError as error:
        _fail(error, 1)


def _fail(error: BaseException, code: int) -> None:
    print(f"lens-cache: {one_line(error, 1000)}", file=sys.stderr)
    raise SystemExit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
