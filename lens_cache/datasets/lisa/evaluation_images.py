"""Skip training images that a benchmark tests on.

The images of RefCOCO's val and test splits come from COCO train2014. They are also in COCO-Stuff
and PACO, and some are in the training splits of the other referring sets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import ImageRecord, Rejected, SegmentationDataset
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.dataset import LisaDataset
from lens_cache.datasets.questions import is_training
from lens_cache.images.decode import content_id

# The sets on which the papers report; all their splits except ``train`` are tested on.
# gRefCOCO and the sets with false premises have the images of RefCOCO(+/g).
BENCHMARKS = ("refcoco", "refcoco+", "refcocog", "reason_seg")
# Name of a skipped training image in the quarantine.
TESTED_ON = "image to test on"
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val)20\d\d_)?(\d{12})\.jpg")


def coco_id(path: PurePosixPath) -> int | None:
    """Return the id of a COCO train or val image, which is the same in COCO 2014 and COCO 2017.

    ``COCO_train2014_000000000009.jpg`` and ``train2017/000000000009.jpg`` are the same image.
    Returns None if the path has neither form.
    """
    match = _COCO_NAME.fullmatch(path.name)
    named = match and (path.name.startswith("COCO_") or re.match("train20|val20", path.parent.name))
    return int(match[1]) if match and named else None


@dataclass
class EvaluationImages:
    """Images of evaluation sets.

    Attributes:
        coco: Name of the set by COCO id.
        contents: Name of the set by content id.
        sizes: File sizes of the images in bytes. Only files of an equal size have to be read to
            compare contents.
    """

    coco: dict[int, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)

    def add(self, root: Path, path: PurePosixPath, name: str) -> None:
        """Add an image of the set ``name``; an unreadable file is added by its COCO id only."""
        number = coco_id(path)
        if number is not None:
            self.coco.setdefault(number, name)
        try:
            data = (root / path).read_bytes()
        except OSError:
            return
        self.contents.setdefault(content_id(data), name)
        self.sizes.add(len(data))

    def update(self, other: EvaluationImages) -> None:
        """Add the images of another instance; existing entries are kept."""
        self.coco = {**other.coco, **self.coco}
        self.contents = {**other.contents, **self.contents}
        self.sizes |= other.sizes

    def why(self, root: Path, path: PurePosixPath) -> str:
        """Return why an image is one of them; an empty string if it is not, or is unreadable."""
        number = coco_id(path)
        if number in self.coco:
            return f"the evaluation set {self.coco[number]} has it: COCO image {number}"
        try:
            if (root / path).stat().st_size not in self.sizes:
                return ""
            found = self.contents.get(content_id((root / path).read_bytes()))
        except OSError:
            return ""
        return f"the evaluation set {found} has it: same content" if found else ""


class WithoutEvaluation(SegmentationDataset):
    """A dataset without queries in training splits about images of evaluation sets.

    Such an image keeps its index; it has no query, and the reason is in its ``rejected``.
    """

    def __init__(self, dataset: LisaDataset, excluded: EvaluationImages) -> None:
        self.whole = dataset
        self.excluded = excluded
        self.name = dataset.name
        self.source = dataset.source
        self.rejected = dataset.rejected

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> ImageRecord:
        record = self.whole[index]
        if not is_training(self.whole.set_of(index).split):
            return record
        reason = self.excluded.why(self.whole.root, record.path)
        if not reason:
            return record
        return ImageRecord(record.path, record.dataset, (), (Rejected(TESTED_ON, reason),))


def benchmark_sets() -> tuple[str, ...]:
    """Return every evaluation split, in the form of ``data.lisa.sets``.

    RefCOCO's ``test`` is the union of testA and testB, so it is not included.
    """
    return tuple(
        f"{name}|{split}"
        for name in BENCHMARKS
        if name in KINDS
        for split in KINDS[name].splits
        if not is_training(split) and not (split == "test" and "testA" in KINDS[name].splits)
    )


def only_benchmarks(config: DataConfig) -> DataConfig:
    """Return settings that open every benchmark below the root; missing ones are skipped."""
    lisa = replace(
        config.lisa,
        sets=benchmark_sets(),
        missing="skip",
        exclude_eval_images=False,
        draws=None,
    )
    return replace(config, lisa=lisa, limit=None)
