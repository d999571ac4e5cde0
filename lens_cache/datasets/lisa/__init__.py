"""LISA's folder of datasets: one dataset made of the sets that a configuration names."""

from __future__ import annotations

from lens_cache.datasets.lisa import reason_seg, refer
from lens_cache.datasets.lisa.ade20k import ADE20K
from lens_cache.datasets.lisa.cocostuff import COCOSTUFF
from lens_cache.datasets.lisa.mapillary import MAPILLARY
from lens_cache.datasets.lisa.parts import PACO_LVIS, PASCAL_PART
from lens_cache.datasets.lisa.sets import SetKind

KINDS: dict[str, SetKind] = {
    "ade20k": ADE20K,
    "cocostuff": COCOSTUFF,
    "pascal_part": PASCAL_PART,
    "paco_lvis": PACO_LVIS,
    "mapillary": MAPILLARY,
    **refer.KINDS,
    **reason_seg.KINDS,
}
