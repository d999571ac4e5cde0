"""Convert records of a dataset to rows of a plan, one chunk at a time, in any process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import ImageRecord, QueryRecord, brief
from lens_cache.datasets.mask_parsing import check_size
from lens_cache.datasets.questions import IMAGE_TOKEN, Choice, ask, seeded, seeded_choice
from lens_cache.datasets.source import DataSource
from lens_cache.errors import DatasetError, ImageError, one_line
from lens_cache.images.decode import content_id, image_size
from lens_cache.images.files import ABSENT, patiently, read_image_file
from lens_cache.plan.schema import QUERIES

# Of a question: about four times as many as LLaVA-1.5 has positions for.
MAX_CHARACTERS = 16_384
RECORDS = pa.schema(
    [
        (name, pa.int32() if name in ("width", "height") else pa.string())
        for name in ("image_id", "path", "dataset", "width", "height")
    ]
)
# The columns of a plan's queries, with the row of the record instead of image index and id.
RECORD_QUERIES = pa.schema(
    [
        pa.field("record", pa.int32()),
        *(f for f in QUERIES if f.name not in ("image_index", "image_id")),
    ]
)


class Pick(NamedTuple):
    """A record to plan, and its queries: positions with their choices, or None for all."""

    record: int
    queries: tuple[tuple[int, Choice], ...] | None = None


@dataclass
class Rows:
    """The rows of a chunk.

    Attributes:
        records: One row per record with a usable query (schema ``RECORDS``).
        queries: Their queries (schema ``RECORD_QUERIES``); ``record`` counts within the chunk.
        quarantine: Skipped entries with the reason.
        unreadable: The rows of ``quarantine`` that are whole images.
        picked_ids: For every position in ``Pick.queries``, in order, the id of its query; an empty
            string if it is not usable.
    """

    records: pa.Table
    queries: pa.Table
    quarantine: list[dict[str, str]]
    unreadable: list[dict[str, str]]
    picked_ids: list[str]


@dataclass
class _Builder:
    config: DataConfig
    records: list[dict[str, Any]] = field(default_factory=list)
    queries: list[dict[str, Any]] = field(default_factory=list)
    quarantine: list[dict[str, str]] = field(default_factory=list)
    unreadable: list[dict[str, str]] = field(default_factory=list)
    picked_ids: list[str] = field(default_factory=list)

    def reject(self, path: object, what: str, reason: str) -> dict[str, str]:
        row = quarantine_row(path, what, reason)
        self.quarantine.append(row)
        return row

    def add(self, source: DataSource, pick: Pick) -> None:
        """Add a record with its queries; entries that are not usable go to the quarantine."""
        ids = self._add_record(source, pick)
        if pick.queries is not None:
            self.picked_ids += ids or [""] * len(pick.queries)

    def _add_record(self, source: DataSource, pick: Pick) -> list[str]:
        """Add a record and return the ids of its queries; an empty list if it is unreadable."""
        dataset = source.open()
        try:
            record = dataset[pick.record]
        except (DatasetError, OSError) as error:
            row = self.reject(dataset.source, f"record {pick.record + 1}", one_line(error))
            self.unreadable.append(row)
            return []
        for rejected in record.rejected:
            self.reject(record.path, rejected.what, rejected.reason)
        image = self._image(record)
        if image is None:
            return []
        queries = pick.queries
        if queries is None:
            queries = tuple(self._choices(record, image["image_id"]))
        ids = [self._add_query(record, image, *query) for query in queries]
        if any(ids):
            self.records.append(image)
        return ids

    def _image(self, record: ImageRecord) -> dict[str, Any] | None:
        """Read the id and size of an image file; None if it is unreadable or has no query."""
        if not record.queries:
            return None
        assert self.config.root is not None  # opening the dataset checked it
        try:
            read = partial(read_image_file, self.config.root, record.path)
            data = patiently(read, final=ABSENT)
            width, height = image_size(data)
        except (ImageError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            count = len(record.queries)
            what = f"image with {count} quer{'y' if count == 1 else 'ies'}"
            self.unreadable.append(self.reject(record.path, what, reason or type(error).__name__))
            return None
        return {
            "image_id": content_id(data),
            "path": record.path.as_posix(),
            "dataset": record.dataset,
            "width": width,
            "height": height,
        }

    def _choices(self, record: ImageRecord, image_id: str) -> Iterable[tuple[int, Choice]]:
        """Return the queries to keep, in order, each with its seeded choice."""
        where, seed = (image_id, record.dataset), self.config.seed
        kept: Sequence[int] = range(len(record.queries))
        if self.config.queries_per_image is not None:
            drawn = sorted(kept, key=lambda position: seeded(seed, "keep", *where, position))
            kept = sorted(drawn[: self.config.queries_per_image])
        for position in kept:
            yield position, seeded_choice(record.queries[position], position, where, seed)

    def _add_query(
        self, record: ImageRecord, image: dict[str, Any], position: int, choice: Choice
    ) -> str:
        """Add a query and return its id; an empty string if it is not usable."""
        query = record.queries[position]
        what = f"query {brief(query.instruction)}"
        try:
            check_size(query.target, image["height"], image["width"])
            if query.ignore is not None:
                check_size(query.ignore, image["height"], image["width"])
        except ValueError as error:
            self.reject(record.path, what, str(error))
            return ""
        row = _query_row(query, choice, image, self.config)
        if IMAGE_TOKEN in row["question"]:
            reason = f"its text contains {IMAGE_TOKEN}, which is reserved for the image"
            self.reject(record.path, what, reason)
            return ""
        if len(row["question"]) > MAX_CHARACTERS:
            reason = f"its text has {len(row['question'])} characters, at most {MAX_CHARACTERS} fit"
            self.reject(record.path, what, reason)
            return ""
        self.queries.append({"record": len(self.records), **row})
        return str(row["query_id"])


def read_rows(source: DataSource, picks: Sequence[Pick]) -> Rows:
    """Build the rows of some records; entries that are not usable go to the quarantine.

    Raises:
        ConfigError: If a template of the settings lacks ``{instruction}``.
    """
    builder = _Builder(source.config)
    for pick in picks:
        builder.add(source, pick)
    return Rows(
        records=pa.Table.from_pylist(builder.records, schema=RECORDS),
        queries=pa.Table.from_pylist(builder.queries, schema=RECORD_QUERIES),
        quarantine=builder.quarantine,
        unreadable=builder.unreadable,
        picked_ids=builder.picked_ids,
    )


def quarantine_row(path: object, what: str, reason: str) -> dict[str, str]:
    """Return a row of the quarantine table."""
    return {"path": str(path), "what": what, "reason": reason}


def _query_row(
    query: QueryRecord, choice: Choice, image: dict[str, Any], config: DataConfig
) -> dict[str, Any]:
    """Return the row of a query; equal queries get equal ids."""
    target = query.target["counts"]
    ignore = query.ignore["counts"] if query.ignore is not None else None
    instruction, text = ask(query, choice, config)
    dataset = image["dataset"]
    identity: list[Any] = [image["image_id"], query.split, dataset, instruction, text]
    identity += [target, ignore, *([query.repeat] if query.repeat else [])]
    return {
        "query_id": hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16],
        "dataset": dataset,
        "split": query.split,
        "instruction": instruction,
        "question": text,
        "kind": query.kind,
        "length": query.length,
        "topic": query.topic,
        "target": target,
        "ignore": ignore,
    }
