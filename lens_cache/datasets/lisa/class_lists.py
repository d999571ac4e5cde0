"""Lists of classes that come with the package, for sets whose files do not say the names."""

from __future__ import annotations

from lens_cache.assets import CLASSES


def class_list(name: str) -> dict[int, str]:
    """Return the names of a list by their ids, which ascend from 1."""
    lines = (CLASSES / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(": ", 1) for line in lines)
    return {int(number): text for number, text in pairs}
