"""Settings of an extraction: which images and instructions go into a store."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pydantic.dataclasses import dataclass

from lens_cache.config.fields import Folder, Positive, Seed, Weight, strict

Rules = Literal["strict", "parity"]
Templates = Literal["fixed", "lens", "lisa"]
# In the order of LISA's own defaults: its sequence of draws depends on the order.
LISA_SETS = (
    "ade20k",
    "cocostuff",
    "pascal_part",
    "paco_lvis",
    "mapillary",
    "refclef",
    "refcoco",
    "refcoco+",
    "refcocog",
    "reason_seg",
)


@dataclass(frozen=True, kw_only=True, config=strict)
class ColumnsConfig:
    """Hugging Face: which column of a table has which role.

    A column that is not set is found by its usual names.
    """

    image: str | None = None
    """The image: the bytes of its file, or its path."""
    text: str | None = None
    """The instruction, or a list of instructions."""
    mask: str | None = None
    """The target of the instruction: an image file, a 2-D list, RLE or polygons, or a list of
    these."""
    ignore: str | None = None
    """A mask of pixels that are excluded from loss and metrics."""
    split: str | None = None
    """The split of each row; by default the split in the name of the row's file."""
    kind: str | None = None
    """`class`, `referring`, `plural` or `reasoning`; by default `referring`."""
    length: str | None = None
    """`long` or `short`, or a boolean that is true for a sentence; by default decided by the
    text."""
    topic: str | None = None
    """A finer kind, by which tables of results are grouped."""


@dataclass(frozen=True, kw_only=True, config=strict)
class RatesConfig:
    """How often LISA's sampler draws from each group of sets; only the ratios matter."""

    semantic: Weight = 9.0
    """ADE20K, COCO-Stuff, Pascal-Part, PACO-LVIS and Mapillary."""
    referring: Weight = 3.0
    """RefCLEF, RefCOCO, RefCOCO+ and RefCOCOg."""
    reasoning: Weight = 1.0
    """ReasonSeg."""


@dataclass(frozen=True, kw_only=True, config=strict)
class LisaConfig:
    """LISA: the training sets and benchmarks of LISA and LENS, in the folders that LISA expects."""

    sets: tuple[str, ...] = LISA_SETS
    """Which sets, each as `name`, `name|split` or `name|variant|split`, such as
    `refcoco|unc|testA`, `mapillary|v1.2|train` or `reason_seg|val`."""
    rules: Rules = "strict"
    """`strict` reads the labels correctly; `parity` does what LISA's loaders do, quirks included,
    to compare with published numbers."""
    missing: Literal["stop", "skip"] = "stop"
    """What to do if a set is not in the folder: stop, or skip the set."""
    exclude_eval_images: bool = False
    """Skip images of training splits that a benchmark tests on. They are recognised by their
    content or their COCO id."""
    draws: Positive | None = None
    """Empty: plan every query. N: of the training splits, plan only the queries of N draws of
    LISA's sampler, seeded by `data.seed`. Other splits are planned in full."""
    queries_per_draw: Positive = 3
    """Conversations about each image that LISA's sampler draws."""
    rates: RatesConfig = field(default_factory=RatesConfig)
    """How often the sampler draws from each group of sets."""


@dataclass(frozen=True, kw_only=True, config=strict)
class DataConfig:
    """Which images and instructions go into a store."""

    kind: Literal["coco", "folder", "jsonl", "huggingface", "lisa", "refcoco_m"] = "coco"
    """The layout of the dataset."""
    root: Folder | None = None
    """Folder of the dataset."""
    split: str | None = None
    """COCO: the split in the name of the annotation file, such as `train2017`, or several,
    separated by commas, such as `train,valid`. Folder, JSONL, Hugging Face and RefCOCO-M: keep
    only this split; all if empty."""
    annotations: Literal["auto", "instances", "panoptic"] = "auto"
    """COCO: which annotation file; `auto` prefers the panoptic one."""
    file: str = "data.jsonl"
    """JSONL: name of the file in `data.root`."""
    instruction: str | None = None
    """Folder: the instruction of masks that are in no folder of an instruction."""
    categories: tuple[str, ...] = ()
    """COCO: keep only these category names; all if empty."""
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Hugging Face: which column has which role."""
    lisa: LisaConfig = field(default_factory=LisaConfig)
    """LISA: which sets, and how they are read."""
    limit: Positive | None = None
    """Keep only the first N images (of each set); all if empty."""
    queries_per_image: Positive | None = None
    """Keep N instructions of each image in a set, drawn with `data.seed`; all if empty. Cannot be
    combined with `data.lisa.draws`."""
    templates: Templates = "fixed"
    """How an instruction becomes a question. `fixed` uses the two questions below. `lens` and
    `lisa` draw a published question with `data.seed` in training splits, and use the published
    evaluation prompt in the other splits."""
    short_question: str = "What is {instruction} in this image?"
    """The question for a short instruction such as "the orange"."""
    long_question: str = "{instruction}"
    """The question for an instruction that is a sentence."""
    seed: Seed = 0
    """Seed of every random choice of planning."""
