"""Images that a benchmark tests on, and training sets without them.

The pictures of RefCOCO's val and test splits are COCO train2014, so they are in COCO-Stuff and PACO
as well, and partly in the training splits of each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import ImageRecord, Rejected
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.lisa.dataset import LisaDataset
from lens_cache.datasets.questions import is_training
from lens_cache.images.decode import content_id

# The sets that the papers report; their splits to test on are all but ``train``.
BENCHMARKS = ("refcoco", "refcoco+", "refcocog", "reason_seg")
# What the quarantine calls a training image that was left out.
TESTED_ON = "image to test on"
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val)20\d\d_)?(\d{12})\.jpg")


def coco_id(path: PurePosixPath) -> int | None:
    """Return the number of a COCO picture of train or val, the same in 2014 and in 2017.

    ``COCO_train2014_000000000009.jpg`` and ``train2017/000000000009.jpg`` are one picture. Nothing
    if the path does not look like either.
    """
    match = _COCO_NAME.fullmatch(path.name)
    named = match and (path.name.startswith("COCO_") or re.match("train20|val20", path.parent.name))
    return int(match[1]) if match and named else None


@dataclass
class EvaluationImages:
    """Images that are tested on, with the set that does.

    Attributes:
        coco: By COCO id.
        contents: By content; ``sizes`` are the lengths of their files, so that few others need to
            be read to be told apart.
    """

    coco: dict[int, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)

    def add(self, root: Path, path: PurePosixPath, name: str) -> None:
        """Add an image; one that cannot be read is known by its COCO id at most."""
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
        """Add what another one knows; what is known already stays."""
        self.coco = {**other.coco, **self.coco}
        self.contents = {**other.contents, **self.contents}
        self.sizes |= other.sizes

    def why(self, root: Path, path: PurePosixPath) -> str:
        """Say why an image is one of them; nothing if it is not, or cannot be read."""
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


class WithoutEvaluation:
    """A dataset whose training splits ask nothing about images that are tested on.

    Such an image stays in its place, with no query and the reason among its ``rejected``.
    """

    def __init__(self, dataset: LisaDataset, excluded: EvaluationImages) -> None:
        self.whole, self.excluded = dataset, excluded
        self.name, self.source, self.rejected = dataset.name, dataset.source, dataset.rejected

    def __len__(self) -> int:
        return len(self.whole)

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> ImageRecord:
        record = self.whole[index]
        if not is_training(self.whole.set_of(index).split):
            return record
        reason = self.excluded.why(self.whole.root, record.path)
        if not reason:
            return record
        return ImageRecord(record.path, record.dataset, (), (Rejected(TESTED_ON, reason),))


def benchmark_sets() -> tuple[str, ...]:
    """Return every split that is tested on, as ``data.lisa.sets`` names it.

    RefCOCO's ``test`` is its testA and testB once more, so it is not among them.
    """
    return tuple(
        f"{name}|{split}"
        for name in BENCHMARKS
        if name in KINDS
        for split in KINDS[name].splits
        if not is_training(split) and not (split == "test" and "testA" in KINDS[name].splits)
    )


def only_benchmarks(config: DataConfig) -> DataConfig:
    """Return settings that open every benchmark below the root, missing ones left out."""
    lisa = replace(
        config.lisa,
        sets=benchmark_sets(),
        missing="skip",
        exclude_eval_images=False,
        draws=None,
    )
    return replace(config, lisa=lisa, limit=None)
