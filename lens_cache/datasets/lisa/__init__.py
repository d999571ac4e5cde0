"""The datasets of LISA, in the folders that LISA expects.

``dataset.LisaDataset`` joins the sets of ``data.lisa.sets``. Each set is a ``sets.SetKind`` in
``KINDS``: label maps (``ade20k``, ``cocostuff``, ``mapillary``), objects and parts (``parts``),
referring expressions (``refer``) and ReasonSeg (``reason_seg``). ``sampler`` reproduces LISA's
draws; ``evaluation_images`` skips training images that a benchmark tests on.
"""

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
