"""RefCLEF, RefCOCO, RefCOCO+ and RefCOCOg: sentences that each refer to one thing of an image.

And gRefCOCO, whose sentences refer to one thing, to several or to none; R-RefCOCO and FP-RefCOCO,
whose sentences may have a false premise: then nothing is meant.

    root/refer_seg/refcoco/instances.json and refs(unc).p
    root/refer_seg/grefcoco/instances.json and grefs(unc).json
    root/refer_seg/images/mscoco/images/train2014/COCO_train2014_*.jpg
    root/refer_seg/images/saiapr_tc-12/...                                (RefCLEF)

Images are in the order of their first ref in the refs file. The queries of an image are all its
sentences of the split, in the order of the refs; repeated sentences are kept.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from lens_cache.config.data import Rules
from lens_cache.datasets.base import (
    ImageRecord,
    QueryRecord,
    Rejected,
    SegmentationDataset,
    brief,
    is_text,
)
from lens_cache.datasets.json_files import read_lists
from lens_cache.datasets.lisa.refer_files import (
    Ref,
    ReferImage,
    index_refs,
    read_refs,
    referred_mask,
)
from lens_cache.datasets.lisa.sets import SetKind, SetName, require_files
from lens_cache.datasets.mask_parsing import check_not_empty
from lens_cache.datasets.questions import is_training
from lens_cache.errors import one_line
from lens_cache.images import masks
from lens_cache.images.masks import Rle

GREFCOCO = "grefcoco"
_FOLDER = PurePosixPath("refer_seg")
_COCO = _FOLDER / "images/mscoco/images/train2014"
_SAIAPR = _FOLDER / "images/saiapr_tc-12"
_ANNOTATIONS = (
    "get {name}.zip (its links at UNC are dead: web.archive.org has copies of "
    "bvisionweb1.cs.unc.edu/licheng/referit/data, the Hugging Face Hub and Kaggle have mirrors)"
)


class ReferDataset(SegmentationDataset):
    """One split of one of the sets; see the module docstring."""

    def __init__(self, root: Path, name: SetName, rules: Rules) -> None:
        """Read both files.

        Raises:
            MissingSetError: If files are missing.
            ConfigError: If the variant has no such split.
            DatasetError: If a file cannot be read.
        """
        folder = _FOLDER / name.name
        instances = folder / "instances.json"
        images = _SAIAPR if name.name == "refclef" else _COCO
        self.name = name.name
        file = f"grefs({name.variant}).json" if name.name == GREFCOCO else f"refs({name.variant}).p"
        self.source = folder / file
        needed = [path.as_posix() for path in (instances, self.source, images)]
        require_files(root, name, needed, KINDS[name.name].source)
        self._split = name.split
        self._rules = rules
        self._images, self.rejected = index_refs(
            read_refs(root / self.source, name),
            read_lists(root / instances, "images", "annotations"),
            images,
        )

    @property
    def listing(self) -> tuple[PurePosixPath, ...]:
        """The expressions, and the masks that they refer to."""
        return self.source, self.source.parent / "instances.json"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> ImageRecord:
        image = self._images[index]
        queries: list[QueryRecord] = []
        rejected = list(image.rejected)
        seen: Counter[tuple[str, str]] = Counter()
        for ref in image.refs:
            try:
                target = self._target(ref, image)
            except ValueError as error:
                rejected.append(Rejected(f"ref {ref.number}", one_line(error)))
                continue
            texts, unusable = self._texts(ref)
            rejected += unusable
            nothing = masks.empty(image.height, image.width)
            for text, false in texts:
                meant = nothing if false else target
                key = text, meant["counts"]
                queries.append(self._query(text, meant, seen[key]))
                seen[key] += 1
        return ImageRecord(image.path, self.name, tuple(queries), tuple(rejected))

    def _target(self, ref: Ref, image: ReferImage) -> Rle:
        """Return the union of the things that are meant; empty if none is."""
        parts = [masks.empty(image.height, image.width)]
        for annotation, segmentation in ref.segmentations.items():
            try:
                target = referred_mask(
                    segmentation,
                    image.height,
                    image.width,
                    self._rules,
                    training=is_training(self._split),
                )
                # A benchmark keeps empty targets: the right answer is an empty mask, and is scored.
                if self._rules == "strict" and self._split == "train":
                    check_not_empty(target)
            except ValueError as error:
                raise ValueError(f"annotation {annotation} of instances.json: {error}") from None
            parts.append(target)
        return parts[1] if len(parts) == 2 else masks.merge(parts)

    def _texts(self, ref: Ref) -> tuple[list[tuple[str, bool]], list[Rejected]]:
        """Return the sentences in LISA's form, each with whether its premise is false.

        Under ``parity``, empty ones are kept as in LISA.
        """
        texts = []
        rejected = []
        for position, entry in enumerate(ref.sentences):
            text = entry.get("sent") if isinstance(entry, dict) else None
            blank = isinstance(text, str) and not text.strip()
            if is_text(text) or (blank and self._rules == "parity"):
                texts.append((str(text).strip().lower(), _is_false(entry)))
            else:
                reason = f"expected a text under sent, got {brief(entry)}"
                rejected.append(Rejected(f"ref {ref.number}, sentence {position}", reason))
        return texts, rejected

    def _query(self, text: str, target: Rle, repeat: int) -> QueryRecord:
        return QueryRecord(
            instruction=text,
            kind="referring",
            length="short",
            split=self._split,
            target=target,
            ignore=None,
            repeat=repeat,
        )


def _is_false(sentence: dict[str, Any]) -> bool:
    """Return whether a sentence means nothing in its image: the flags of FP-RefCOCO and R-RefCOCO.

    Source: ``dataloaders/test_dataset.py`` of github.com/see-say-segment/sesame.
    """
    return sentence.get("is_false_premise") is True or sentence.get("exist") is False


def _negatives(name: str, *variants: str) -> SetKind:
    """Return a set with false premises; it has the splits of its refs file."""
    return SetKind(
        group="referring",
        splits=("val", "train", "test", "testA", "testB"),
        variants=variants,
        open=ReferDataset,
        source=f"get {name} from dataset/README.md of github.com/see-say-segment/sesame, and "
        f"{_TRAIN2014}",
        folder=(_FOLDER / name).as_posix(),
    )


def _kind(name: str, images: str, splits: str, *variants: str) -> SetKind:
    return SetKind(
        group="referring",
        splits=tuple(splits.split()),
        variants=variants,
        open=ReferDataset,
        source=f"{_ANNOTATIONS.format(name=name)} and {images}",
    )


_TRAIN2014 = "train2014.zip of cocodataset.org"
KINDS = {
    "refclef": _kind(
        "refclef",
        "saiapr_tc-12.zip, from the same place (only RefCLEF needs it)",
        "train val test testA testB testC",
        "unc",
        "berkeley",
    ),
    "refcoco": _kind("refcoco", _TRAIN2014, "train val test testA testB", "unc", "google"),
    "refcoco+": _kind("refcoco+", _TRAIN2014, "train val test testA testB", "unc"),
    "refcocog": _kind("refcocog", _TRAIN2014, "train val test", "umd", "google"),
    GREFCOCO: SetKind(
        group="referring",
        splits=("train", "val", "testA", "testB"),
        variants=("unc",),
        open=ReferDataset,
        source=f"get it from github.com/henghuiding/gRefCOCO, and {_TRAIN2014}",
        folder=(_FOLDER / GREFCOCO).as_posix(),
    ),
    "R-refcoco": _negatives("R-refcoco", "unc_exclude_unified", "unc"),
    "R-refcoco+": _negatives("R-refcoco+", "unc_exclude_unified", "unc"),
    "R-refcocog": _negatives("R-refcocog", "umd_exclude_unified", "umd"),
    "fprefcoco": _negatives("fprefcoco", "berkeley_exclude_unified", "berkeley"),
    "fprefcoco+": _negatives("fprefcoco+", "berkeley_exclude_unified", "berkeley"),
    "fprefcocog": _negatives("fprefcocog", "berkeley_exclude_unified", "berkeley"),
}
