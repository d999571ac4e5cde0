"""Settings of phase 1 that say which images and instructions go into a store."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_strict = ConfigDict(extra="forbid")
_Positive = Annotated[int, Field(gt=0)]
Rules = Literal["strict", "parity"]
Templates = Literal["fixed", "lens", "lisa"]
# In the order of LISA's own defaults, on which its stream of draws depends.
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


@dataclass(frozen=True, kw_only=True, config=_strict)
class ColumnsConfig:
    """Which columns of a table say what; an empty one is found by its usual names.

    Attributes:
        image: The picture: its file's bytes, or its path.
        text: The instruction, or a list of them.
        mask: What it means: an image file, a 2-D list, RLE or polygons, or a list of these.
        ignore: A mask of pixels that count neither way.
        split: The split of each row; else its file's name says it.
        kind: ``class``, ``referring``, ``plural`` or ``reasoning``; else ``referring``.
        length: ``long`` or ``short``, or whether it is a sentence; else how it reads.
        topic: A finer kind, for tables.
    """

    image: str | None = None
    text: str | None = None
    mask: str | None = None
    ignore: str | None = None
    split: str | None = None
    kind: str | None = None
    length: str | None = None
    topic: str | None = None


@dataclass(frozen=True, kw_only=True, config=_strict)
class RatesConfig:
    """How often LISA's sampler turns to each group of sets; only the ratios matter."""

    semantic: Annotated[float, Field(ge=0)] = 9.0
    referring: Annotated[float, Field(ge=0)] = 3.0
    reasoning: Annotated[float, Field(ge=0)] = 1.0


@dataclass(frozen=True, kw_only=True, config=_strict)
class LisaConfig:
    """The training sets and benchmarks of LISA and LENS, in the folders that LISA expects.

    Attributes:
        sets: Which, each as ``name``, ``name|split`` or ``name|variant|split``, such as
            ``refcoco|unc|testA``, ``mapillary|v1.2|train`` or ``reason_seg|val``.
        rules: ``strict`` does what is right; ``parity`` what LISA's loaders do, quirks included,
            to compare with published numbers.
        missing: What to do about a set that is not there: stop, or do without it.
        exclude_eval_images: Leave out images of training splits that a benchmark tests on, known
            by content or by COCO id.
        draws: Empty plans everything. A number plans what LISA's sampler draws of the training
            splits, so many times (``data.seed`` seeds it), and nothing else of them; other splits
            stay whole.
        queries_per_draw: Conversations that LISA's sampler holds about a drawn image.
        rates: How often it turns to each group of sets.
    """

    sets: tuple[str, ...] = LISA_SETS
    rules: Rules = "strict"
    missing: Literal["stop", "skip"] = "stop"
    exclude_eval_images: bool = False
    draws: _Positive | None = None
    queries_per_draw: _Positive = 3
    rates: RatesConfig = field(default_factory=RatesConfig)


@dataclass(frozen=True, kw_only=True, config=_strict)
class DataConfig:
    """Which images and instructions go into a store.

    Attributes:
        kind: Name of the dataset adapter.
        root: Folder of the dataset.
        split: COCO: the part of the annotation file's name, e.g. ``train2017``. JSONL and Hugging
            Face: keep only lines or rows of this split; all if empty.
        annotations: COCO only: which annotation file; ``auto`` prefers panoptic.
        file: JSONL only: the file's name inside ``root``.
        categories: COCO only: keep only these category names; all if empty.
        columns: Hugging Face only: which columns say what.
        lisa: LISA only: which sets, and how they are read.
        limit: Keep only the first images (of each set); all if empty.
        queries_per_image: Keep so many instructions of an image in a set, drawn with ``seed``; all
            if empty. Not together with ``lisa.draws``.
        templates: How an instruction becomes a question: ``fixed`` uses the two questions below;
            ``lens`` and ``lisa`` draw one of the published ones with ``seed`` in training splits,
            and take the published evaluation prompt in the others.
        short_question: The question asked for a short instruction such as "the orange".
        long_question: The question asked for an instruction that is a sentence already.
        seed: Decides every draw of planning.
    """

    kind: Literal["coco", "jsonl", "huggingface", "lisa"] = "coco"
    root: Path | None = None
    split: str | None = None
    annotations: Literal["auto", "instances", "panoptic"] = "auto"
    file: str = "data.jsonl"
    categories: tuple[str, ...] = ()
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    lisa: LisaConfig = field(default_factory=LisaConfig)
    limit: _Positive | None = None
    queries_per_image: _Positive | None = None
    templates: Templates = "fixed"
    short_question: str = "What is {instruction} in this image?"
    long_question: str = "{instruction}"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
