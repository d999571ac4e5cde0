"""Sizes of the report: those of the paper on a GPU, tiny ones with the same code on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipelines.benchmark.models import CPU_SIZE, FULL_SIZE, PairSizes


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large the measured models and batches are.

    Attributes:
        name: Name of the scale.
        pair: The models that are measured.
        written: The models of the checkpoints that a whole extraction and training use: as wide as
            ``pair``, with few layers.
        dtype: Precision of the models.
        batches: Images per batch of the measured extractions.
        images: Images of a measurement.
        steps: Images and questions per image of the measured training steps.
        records: Images of the stores.
    """

    name: str
    pair: PairSizes
    written: PairSizes
    dtype: str
    batches: tuple[int, ...]
    images: int
    steps: tuple[tuple[int, int], ...]
    records: int


FULL = Scale(
    name="full",
    pair=FULL_SIZE,
    written=replace(
        FULL_SIZE,
        name="LLaVA-1.5-7B with 3 of 32 layers and SAM ViT-H with 4 of 32",
        layer=1,
        llava=replace(FULL_SIZE.llava, tower_layers=3, layers=3, vocabulary=None),
        sam=replace(FULL_SIZE.sam, depth=4, global_blocks=(1, 3)),
    ),
    dtype="bfloat16",
    batches=(1, 4, 8, 16),
    images=48,
    steps=((2, 3), (8, 3), (20, 3)),
    records=96,
)
_TINY_PAIR = replace(
    CPU_SIZE,
    name="a tiny LLaVA and SAM",
    layer=2,
    llava=replace(
        CPU_SIZE.llava,
        image_side=56,
        tower_width=64,
        tower_layers=3,
        width=64,
        feedforward=96,
        layers=5,
    ),
    sam=replace(
        CPU_SIZE.sam,
        image_size=64,
        embed_dim=32,
        depth=2,
        num_heads=2,
        window_size=2,
        global_blocks=(1,),
    ),
)
TINY = Scale(
    name="tiny",
    pair=_TINY_PAIR,
    written=replace(
        _TINY_PAIR,
        name="a tiny LLaVA, tapped at layer 1, and SAM",
        layer=1,
        llava=replace(_TINY_PAIR.llava, vocabulary=None),
    ),
    dtype="float32",
    batches=(1, 2),
    images=4,
    steps=((1, 1), (2, 2)),
    records=16,
)
SCALES = {scale.name: scale for scale in (FULL, TINY)}
