"""Types that several settings share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

_strict = ConfigDict(extra="forbid")


Dtype = Literal["float32", "bfloat16", "float16"]


StoreFormat = Literal["zarr", "webdataset"]


Precision = Literal["model", "fp8", "int8"]


Positive = Annotated[int, Field(gt=0)]


NonNegative = Annotated[int, Field(ge=0)]


Fraction = Annotated[float, Field(ge=0, le=1)]


Weight = Annotated[float, Field(ge=0)]
