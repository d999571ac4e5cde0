"""What tests share: worlds, stores, servers, processes."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
