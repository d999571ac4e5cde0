"""LISA's folder of datasets: one dataset made of the sets that a configuration names."""

from __future__ import annotations

from lens_cache.datasets.lisa import reason_seg, refer
from lens_cache.datasets.lisa.sets import SetKind

KINDS: dict[str, SetKind] = {**refer.KINDS, **reason_seg.KINDS}
