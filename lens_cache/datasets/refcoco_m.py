"""RefCOCO-M: RefCOCO's validation images with accurate masks, as Parquet files.

    root/data/validation-00000-of-00002.parquet

Source: ``moondream/refcoco-m`` on the Hugging Face Hub (MIT). A row is an image with ``samples``, a
list of referred things, each with ``sentences`` and a ``mask``, a COCO RLE in the size of the
image.
"""

from __future__ import annotations

import bisect
from collections import Counter
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import (
    ImageRecord,
    QueryRecord,
    Rejected,
    SegmentationDataset,
    brief,
    dataset_root,
    is_text,
)
from lens_cache.datasets.huggingface_files import find_tables
from lens_cache.datasets.mask_parsing import check_not_empty, mask_from_rle
from lens_cache.errors import ConfigError, LensCacheError, one_line
from lens_cache.images.files import row_path
from lens_cache.images.tables import table_file

COLUMNS = ("image", "samples")


class RefcocoMDataset(SegmentationDataset):
    """The rows of all tables of a folder, sorted by file name; see the module docstring.

    Raises:
        ConfigError: If a table has other columns, or no table has the split.
        DatasetError: If a table cannot be read.
    """

    name = "refcoco_m"
    source = PurePosixPath(".")

    def __init__(self, config: DataConfig) -> None:
        self._root = dataset_root(config)
        found = find_tables(self._root)
        self._tables = [one for one in found if config.split in (None, one[1])]
        if not self._tables:
            splits = ", ".join(sorted({split for _, split in found}))
            raise ConfigError(
                f"opening RefCOCO-M in {self._root}: no table of split {config.split!r}; splits "
                f"found: {splits}"
            )
        rows = []
        for path, _ in self._tables:
            file = table_file(self._root / path)
            names = list(file.schema.names)
            if missing := [name for name in COLUMNS if name not in names]:
                raise ConfigError(
                    f"reading {self._root / path}: expected the columns {', '.join(COLUMNS)}, "
                    f"found no {missing[0]}; get the files of moondream/refcoco-m"
                )
            rows.append(file.num_rows)
        self._ends = list(accumulate(rows))
        self._length = min(self._ends[-1], config.limit or self._ends[-1])

    @property
    def listing(self) -> tuple[PurePosixPath, ...]:
        """The tables."""
        return tuple(path for path, _ in self._tables)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> ImageRecord:
        place = bisect.bisect_right(self._ends, index)
        table, split = self._tables[place]
        row = index - (self._ends[place - 1] if place else 0)
        queries: list[QueryRecord] = []
        rejected: list[Rejected] = []
        seen: Counter[tuple[str, str]] = Counter()
        try:
            samples = table_file(self._root / table).value(row, "samples").as_py()
            if not isinstance(samples, list):
                raise ValueError(f"expected a list in the column samples, got {brief(samples)}")
        except (LensCacheError, ValueError) as error:
            samples, rejected = [], [Rejected(f"row {row}", one_line(error))]
        for number, sample in enumerate(samples):
            try:
                queries += _queries(sample, split, seen)
            except ValueError as error:
                rejected.append(Rejected(f"row {row}, sample {number}", one_line(error)))
        return ImageRecord(
            row_path(table, row, "image"), self.name, tuple(queries), tuple(rejected)
        )


def _queries(sample: Any, split: str, seen: Counter[tuple[str, str]]) -> list[QueryRecord]:
    """Return one query for each sentence; raises ValueError with the reason.

    Sentences are stripped and in lower case, as those of RefCOCO; equal ones stay separate.
    """
    if not isinstance(sample, dict) or not isinstance(sample.get("sentences"), list):
        raise ValueError(f"expected sentences and a mask, got {brief(sample)}")
    if not sample["sentences"] or not all(map(is_text, sample["sentences"])):
        raise ValueError(f"expected a list of texts, got {brief(sample['sentences'])}")
    target = mask_from_rle(sample.get("mask"))
    check_not_empty(target)
    found = []
    for sentence in sample["sentences"]:
        text = sentence.strip().lower()
        key = text, target["counts"]
        found.append(
            QueryRecord(
                instruction=text,
                kind="referring",
                length="short",
                split=split,
                target=target,
                ignore=None,
                repeat=seen[key],
            )
        )
        seen[key] += 1
    return found
