"""What commands print: one document for machines, one text for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Report:
    """The same content twice."""

    document: dict[str, Any]
    text: str


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def _flops(value: float) -> str:
    for unit in ("MFLOP", "GFLOP", "TFLOP", "PFLOP"):
        value /= 1000 if unit != "MFLOP" else 1e6
        if value < 1000:
            return f"{value:.3g} {unit}"
    return f"{value / 1000:.3g} EFLOP"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _short(value: object) -> str:
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= 64 else text[:61] + "..."
