"""What a plan skipped, in a few lines; the whole list is in its quarantine table."""

from __future__ import annotations

from typing import Any

import pyarrow.compute as pc

from lens_cache.datasets.lisa.evaluation_images import TESTED_ON

_SHOWN = 5


def skipped_lines(quarantine: Any, where: object) -> list[str]:
    """Return the number of skipped entries, the first few, and where the others are.

    Args:
        quarantine: The table of a plan.
        where: Its file.
    """
    tested = pc.equal(quarantine["what"], TESTED_ON)
    excluded = int(pc.sum(tested).as_py() or 0)
    rows = quarantine.filter(pc.invert(tested))
    lines = []
    if excluded:
        lines.append(f"skipped {excluded} training images that benchmarks test on; see {where}")
    if rows.num_rows:
        lines.append(f"skipped {rows.num_rows} files or queries; the whole list is {where}")
        lines += [
            f"  {row['path']}, {row['what']}: {row['reason']}"
            for row in rows.slice(0, _SHOWN).to_pylist()
        ]
    if rows.num_rows > _SHOWN:
        lines.append(f"  ... and {rows.num_rows - _SHOWN} more")
    return lines
