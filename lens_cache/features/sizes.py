"""Sizes in whole multiples of a step."""

from __future__ import annotations


def ceil_div(size: int, step: int) -> int:
    """Return how many steps cover a size: size / step, rounded up."""
    return (size + step - 1) // step


def round_up(size: int, step: int) -> int:
    """Return the smallest multiple of a step that is at least a size."""
    return ceil_div(size, step) * step
