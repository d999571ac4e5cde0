"""The output of a command: one document for machines, one text for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Report:
    """The same content twice.

    Attributes:
        document: Printed with ``--json``.
        text: Printed otherwise.
    """

    document: dict[str, Any]
    text: str
