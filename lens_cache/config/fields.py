"""Types that several settings share.

The text below a field is its description: ``lens-cache config show`` prints it, editors get it in
the JSON schema, and the page of settings in the documentation is generated from it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

# An unknown key is an error; the string literal below a field is its description.
strict = ConfigDict(extra="forbid", use_attribute_docstrings=True)

Dtype = Literal["float32", "bfloat16", "float16"]
StoreFormat = Literal["zarr", "webdataset"]
Precision = Literal["model", "fp8", "int8"]

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


def _expand_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError("there is no such home directory") from None


def _expand_home_text(text: str) -> str:
    return str(_expand_home(Path(text))) if text.startswith("~") else text


# A leading ``~`` is the home directory, as in a shell.
Folder = Annotated[Path, AfterValidator(_expand_home)]
Checkpoint = Annotated[str, AfterValidator(_expand_home_text)]
