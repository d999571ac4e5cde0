"""``python -m pipelines``: the command line where the console script is not installed."""

from pipelines.cli import main

main()
