"""Make the plan of a store from a dataset: read every image once, dedupe by content."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from lens_cache.data_config import DataConfig
from lens_cache.datasets import ImageRecord, QueryRecord, SegmentationDataset, open_dataset
from lens_cache.datasets.instructions import question
from lens_cache.datasets.targets import check_size
from lens_cache.errors import DatasetError, ImageError
from lens_cache.images import content_id, image_size
from lens_cache.picture_files import read_picture_file
from lens_cache.plan_files import IMAGES, QUARANTINE, QUERIES
from lens_cache.plan_tables import Plan, PlannedImage, PlannedQuery

__all__ = ["Plan", "PlannedImage", "PlannedQuery", "build_plan"]


@dataclass(frozen=True)
class _Read:
    """A record together with what its image file says; ``problem`` if it could not be read."""

    record: ImageRecord
    image_id: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""


@dataclass
class _Image:
    """A picture while the plan grows; ``keys`` are the queries it has already."""

    row: dict[str, Any]
    queries: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


@dataclass
class _Builder:
    """Collects rows in dataset order; nothing in it depends on the order of threads."""

    config: DataConfig
    images: dict[str, _Image] = field(default_factory=dict)
    quarantine: list[dict[str, str]] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)

    def reject(self, path: object, what: str, reason: str) -> dict[str, str]:
        """Add a quarantine row."""
        row = {"path": str(path), "what": what, "reason": reason}
        self.quarantine.append(row)
        return row

    def add(self, read: _Read) -> None:
        """Add an image, its usable queries and what is wrong with the others."""
        record = read.record
        for rejected in record.rejected:
            self.reject(record.path, rejected.what, rejected.reason)
        if read.problem:
            count = len(record.queries)
            what = f"image with {count} quer{'y' if count == 1 else 'ies'}"
            self.unreadable.append(self.reject(record.path, what, read.problem))
            return
        for query in record.queries:
            try:
                check_size(query.target, read.height, read.width)
                if query.ignore is not None:
                    check_size(query.ignore, read.height, read.width)
            except ValueError as error:
                self.reject(record.path, f"query {query.instruction!r}", str(error))
            else:
                self._add_query(read, query)

    def _add_query(self, read: _Read, query: QueryRecord) -> None:
        record, path = read.record, read.record.path.as_posix()
        image = self.images.setdefault(read.image_id, _Image(row=_image_row(read)))
        if path not in image.row["paths"]:
            image.row["paths"].append(path)
        if record.dataset not in image.row["datasets"]:
            image.row["datasets"].append(record.dataset)
        row = _query_row(read, query, self.config)
        if row["query_id"] not in image.keys:
            image.keys.add(row["query_id"])
            image.queries.append(row)

    def build(self) -> Plan:
        """Return the plan."""
        images = list(self.images.values())
        queries = [
            {**row, "image_index": index}
            for index, image in enumerate(images)
            for row in image.queries
        ]
        return Plan(
            images=pa.Table.from_pylist([image.row for image in images], schema=IMAGES),
            queries=pa.Table.from_pylist(queries, schema=QUERIES),
            quarantine=pa.Table.from_pylist(self.quarantine, schema=QUARANTINE),
        )


def build_plan(
    config: DataConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
    threads: int = 4,
) -> Plan:
    """Read a dataset and every image file of it once, and lay out the store.

    The same picture under two paths is one image with the queries of both. An image takes its
    place where it first occurs in the dataset; its queries keep their order. Only an image's
    header is decoded here: a file that ends too early shows itself at extraction.

    Args:
        config: The dataset. The questions' templates are part of it.
        progress: Called with (images read, images in all) after every image.
        threads: How many files are read at a time; does not change the plan.

    Raises:
        ConfigError: If a setting does not fit the dataset.
        DatasetError: If the dataset cannot be read, or nothing usable is left of it.
    """
    question("", "short", config)
    question("", "long", config)
    dataset = open_dataset(config)
    assert config.root is not None  # open_dataset checked it
    builder = _Builder(config)
    for rejected in dataset.rejected:
        builder.reject(dataset.source, rejected.what, rejected.reason)
    for done, read in enumerate(_read_all(dataset, config.root, threads), start=1):
        builder.add(read)
        if progress is not None:
            progress(done, len(dataset))
    if not builder.images:
        raise DatasetError(_nothing_left(builder, len(dataset)))
    return builder.build()


def _read_all(dataset: SegmentationDataset, root: Path, threads: int) -> Iterator[_Read]:
    """Read records and files ahead in threads, and yield them in order."""
    waiting: deque[Future[_Read]] = deque()
    pool = ThreadPoolExecutor(max(1, threads), thread_name_prefix="plan")
    try:
        for index in range(len(dataset)):
            waiting.append(pool.submit(_read_one, dataset, root, index))
            if len(waiting) >= 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _read_one(dataset: SegmentationDataset, root: Path, index: int) -> _Read:
    """Build a record and identify its image; a record without queries needs no image."""
    record = dataset[index]
    if not record.queries:
        return _Read(record)
    try:
        data = read_picture_file(root, record.path)
        width, height = image_size(data)
    except ImageError as error:
        return _Read(record, problem=str(error))
    except OSError as error:
        return _Read(record, problem=error.strerror or type(error).__name__)
    return _Read(record, content_id(data), width, height)


def _image_row(read: _Read) -> dict[str, Any]:
    path = read.record.path.as_posix()
    return {
        "image_id": read.image_id,
        "path": path,
        "paths": [path],
        "width": read.width,
        "height": read.height,
        "datasets": [read.record.dataset],
    }


def _query_row(read: _Read, query: QueryRecord, config: DataConfig) -> dict[str, Any]:
    """Return a row of the table without ``image_index``; equal queries get equal ids."""
    target = query.target["counts"]
    ignore = query.ignore["counts"] if query.ignore is not None else None
    text = question(query.instruction, query.length, config)
    dataset = read.record.dataset
    identity: list[Any] = [read.image_id, query.split, dataset, query.instruction, text]
    identity += [target, ignore, *([query.repeat] if query.repeat else [])]
    return {
        "query_id": hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16],
        "image_id": read.image_id,
        "dataset": dataset,
        "split": query.split,
        "instruction": query.instruction,
        "question": text,
        "kind": query.kind,
        "length": query.length,
        "topic": query.topic,
        "target": target,
        "ignore": ignore,
    }


def _nothing_left(builder: _Builder, total: int) -> str:
    """Say why no image is left."""
    unreadable, rows = builder.unreadable, builder.quarantine
    start = f"planning {builder.config.root}"
    if len(unreadable) == total:
        first = unreadable[0]
        return (
            f"{start}: none of {total} images can be read; the first is {first['path']}: "
            f"{first['reason']}"
        )
    first = rows[0] if rows else {"path": "the dataset", "what": "it", "reason": "has no query"}
    return (
        f"{start}: no usable query in {total} images ({len(rows)} entries rejected); the first is "
        f"{first['path']}, {first['what']}: {first['reason']}"
    )
