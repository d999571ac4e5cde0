"""How a step reports its progress."""

from __future__ import annotations

from collections.abc import Callable

# Called with the name of the step, steps done and steps in all.
Progress = Callable[[str, int, int], None]
