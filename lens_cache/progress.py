"""The callback by which a step reports its progress."""

from __future__ import annotations

from collections.abc import Callable

# Called with (name of the step, items done, items in all).
Progress = Callable[[str, int, int], None]


def no_progress(step: str, done: int, total: int) -> None:
    """Report nothing."""
