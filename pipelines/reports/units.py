"""Numbers and values as short text for people."""

from __future__ import annotations

from collections.abc import Mapping

_SHOWN = 64


def size(num_bytes: float) -> str:
    """Return a number of bytes with a decimal unit: ``7.5 MB`` for 7.5e6."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.4g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.4g} TB"


def flops(operations: float) -> str:
    """Return a number of floating-point operations with a decimal unit, from MFLOP to EFLOP."""
    value = operations / 1e6
    for unit in ("MFLOP", "GFLOP", "TFLOP", "PFLOP"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} EFLOP"


def duration(hours: float) -> str:
    """Return a time in seconds below a minute, in minutes below two hours, else in hours."""
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"


def shorten(value: object) -> str:
    """Return a value on one line, cut at 64 characters."""
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def counts(numbers: Mapping[str, int]) -> str:
    """Return numbers by name as ``train 20, val 3``."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items())
