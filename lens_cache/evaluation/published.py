"""Published results, from ``assets/published_results.yaml``: cited, never measured here."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from lens_cache.assets import PUBLISHED_RESULTS

TableName = Literal["reasonseg", "refcoco", "grefcoco", "general", "ablations", "cost", "routing"]
Group = Literal["trained", "training-free"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class PublishedResult:
    """The results of a method in one table, as its source prints them.

    Attributes:
        table: The table.
        group: Whether something was trained, or models were only called.
        method: Name of the method.
        mllm: Its multimodal LLM; empty if it has none.
        frozen: Whether that is unchanged; None if it has none.
        trained_on: What the method was trained on.
        seen_refcoco: Whether the backbone was trained on RefCOCO; None if not stated.
        calls: Calls of a multimodal LLM for each query; None if not stated.
        source: Where the values are published.
        values: By column of the table.
    """

    table: TableName
    group: Group
    method: Annotated[str, Field(min_length=1)]
    mllm: str
    frozen: bool | None
    trained_on: str
    seen_refcoco: bool | None
    calls: int | None
    source: Annotated[str, Field(min_length=1)]
    values: dict[str, Annotated[float, Field(ge=0, le=2800)]]


def published(table: TableName) -> list[PublishedResult]:
    """Return the published rows of a table, in the order of the file."""
    return [row for row in _rows() if row.table == table]


@cache
def _rows() -> tuple[PublishedResult, ...]:
    document = yaml.safe_load(PUBLISHED_RESULTS.read_text(encoding="utf-8"))
    return tuple(TypeAdapter(list[PublishedResult]).validate_python(document))
