"""The plan: which images and questions a store holds, as three tables. Made before any GPU runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from lens_cache.errors import StoreError, one_line
from lens_cache.images.masks import Rle
from lens_cache.plan.schema import (
    DRAWS,
    DRAWS_FILE,
    FILES,
    SCHEMAS,
    belong_together,
    from_parquet,
    to_parquet,
)


@dataclass(frozen=True, eq=False)
class Plan:
    """Images, queries (sorted by image) and what was left out and why; see the schemas.

    ``draws`` says which queries LISA's sampler drew at a time, by id, so that a trainer can replay
    it (``drawn``); None if the plan holds everything there is. Compare two plans by ``digest``.
    """

    images: Any
    queries: Any
    quarantine: Any
    draws: Any = None

    @property
    def num_images(self) -> int:
        """Number of distinct pictures."""
        return int(self.images.num_rows)

    @property
    def num_queries(self) -> int:
        """Number of questions about all images."""
        return int(self.queries.num_rows)

    @cached_property
    def query_offsets(self) -> NDArray[np.int64]:
        """Where each image's queries begin, shape (num_images + 1,); the last one is their end."""
        owners = self.queries["image_index"].to_numpy()
        return np.searchsorted(owners, np.arange(self.num_images + 1)).astype(np.int64)

    def drawn(self, index: int) -> list[int]:
        """Return the positions in ``queries`` of what one draw asks, in the order drawn.

        It is empty where the drawn image could not be read.

        Raises:
            IndexError: If there is no such draw.
        """
        count = 0 if self.draws is None else self.draws.num_rows
        if not 0 <= index < count:
            raise IndexError(f"draw {index} of a plan with {count} draws")
        return [self._positions[query_id] for query_id in self.draws["queries"][index].as_py()]

    @cached_property
    def _positions(self) -> dict[str, int]:
        ids = self.queries["query_id"].to_pylist()
        return {query_id: position for position, query_id in enumerate(ids)}

    def image(self, index: int) -> PlannedImage:
        """Return one image.

        Raises:
            IndexError: If there is no such image.
        """
        row = self._row(index)
        return PlannedImage(
            index=index,
            image_id=row["image_id"],
            path=PurePosixPath(row["path"]),
            paths=tuple(PurePosixPath(path) for path in row["paths"]),
            width=row["width"],
            height=row["height"],
            datasets=tuple(row["datasets"]),
        )

    def query_range(self, image: int) -> range:
        """Return the positions of an image's queries in ``queries``."""
        return range(int(self.query_offsets[image]), int(self.query_offsets[image + 1]))

    def query_owner(self, index: int) -> int:
        """Return the image a query belongs to."""
        return int(np.searchsorted(self.query_offsets, index, side="right")) - 1

    def query(self, index: int) -> PlannedQuery:
        """Return one query by its position.

        Raises:
            IndexError: If there is no such query.
        """
        if not 0 <= index < self.num_queries:
            raise IndexError(f"query {index} of a plan with {self.num_queries} queries")
        return self._queries(index, index + 1)[0]

    def queries_of(self, index: int) -> list[PlannedQuery]:
        """Return the queries of one image in their order; raises IndexError as ``image`` does."""
        self._row(index)
        mine = self.query_range(index)
        return self._queries(mine.start, mine.stop)

    def _queries(self, start: int, stop: int) -> list[PlannedQuery]:
        found = []
        for row in self.queries.slice(start, stop - start).to_pylist():
            image = self._row(row["image_index"])
            found.append(
                PlannedQuery(
                    size=(image["height"], image["width"]),
                    target_counts=row.pop("target"),
                    ignore_counts=row.pop("ignore"),
                    **row,
                )
            )
        return found

    def splits(self) -> dict[str, int]:
        """Return the number of queries of every split, by name.

        A split of one dataset among several is ``dataset|split``.
        """
        names = self.queries["split"]
        if len(pc.unique(self.queries["dataset"])) > 1:
            names = pc.binary_join_element_wise(self.queries["dataset"], names, "|")
        counts = pc.value_counts(names).to_pylist()
        return {item["values"]: item["counts"] for item in sorted(counts, key=_split_name)}

    def in_split(self, split: str | None) -> NDArray[np.bool_]:
        """Return which queries are of a split, shape (num_queries,); all if none is given.

        ``val`` is that of every dataset, ``reason_seg|val`` that of one.
        """
        if split is None:
            return np.ones(self.num_queries, dtype=np.bool_)
        dataset, _, name = split.rpartition("|")
        found = pc.equal(self.queries["split"], name)
        if dataset:
            found = pc.and_(found, pc.equal(self.queries["dataset"], dataset))
        return np.asarray(found.to_numpy(), dtype=np.bool_)

    def select(self, split: str | None = None, limit_images: int | None = None) -> list[int]:
        """Return the first images that have a query of the split (of any, if not given)."""
        owners = self.queries["image_index"].to_numpy()[self.in_split(split)]
        return [int(index) for index in np.unique(owners)[:limit_images]]

    def digest(self) -> str:
        """Return the SHA-256 of the content, whatever the Parquet files look like."""
        sha = hashlib.sha256()
        for name, table in self._tables().items():
            for column in table.column_names:
                sha.update(f"{name}.{column}:{table.num_rows}\n".encode())
                for start in range(0, table.num_rows, 4096):
                    values = table[column].slice(start, 4096).to_pylist()
                    sha.update(json.dumps(values).encode() + b"\n")
        return sha.hexdigest()

    def to_files(self) -> dict[str, bytes]:
        """Return the Parquet files by name; equal plans give equal bytes."""
        return {f"{name}.parquet": to_parquet(table) for name, table in self._tables().items()}

    def _tables(self) -> dict[str, Any]:
        tables = {name: getattr(self, name) for name in SCHEMAS}
        return tables if self.draws is None else {**tables, "draws": self.draws}

    def save(self, folder: Path) -> None:
        """Write the Parquet files into ``folder``; a store moves it into place when it is whole.

        Raises:
            StoreError: If the folder cannot be written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in self.to_files().items():
                (folder / name).write_bytes(data)
        except OSError as error:
            raise StoreError(f"writing the plan to {folder}: {error.strerror}") from None

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str = "the plan") -> Plan:
        """Read what ``to_files`` returned; ``where`` is named in errors.

        Raises:
            StoreError: If a file is missing, broken, or does not belong to the others.
        """
        schemas = {**SCHEMAS, "draws": DRAWS} if DRAWS_FILE in files else SCHEMAS
        tables = {
            name: from_parquet(files.get(f"{name}.parquet"), schema, f"{where}/{name}")
            for name, schema in schemas.items()
        }
        if not belong_together(tables):
            raise StoreError(f"reading {where}: its tables do not belong together; plan again")
        return cls(**tables)

    @classmethod
    def load(cls, folder: str | Path) -> Plan:
        """Read a plan that ``save`` wrote: the folder ``plan`` of a store.

        Raises:
            StoreError: If there is none, or it cannot be read.
        """
        folder = Path(folder) if isinstance(folder, str) else folder
        try:
            files = {name: (folder / name).read_bytes() for name in FILES}
            if (folder / DRAWS_FILE).exists():
                files[DRAWS_FILE] = (folder / DRAWS_FILE).read_bytes()
        except FileNotFoundError:
            raise StoreError(
                f"reading the plan {folder}: it is not there; make it with `lens-cache plan`"
            ) from None
        except OSError as error:
            raise StoreError(f"reading the plan {folder}: {one_line(error)}") from None
        return cls.from_files(files, where=str(folder))

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.num_images:
            raise IndexError(f"image {index} of a plan with {self.num_images} images")
        return self.images.slice(index, 1).to_pylist()[0]  # type: ignore[no-any-return]


def _split_name(item: dict[str, Any]) -> str:
    return str(item["values"])


@dataclass(frozen=True)
class PlannedImage:
    """One picture; several files if the same content lies under several paths.

    Attributes:
        index: Its position in the plan and in every array of the store.
        image_id: Hash of the file's content.
        path: The first of ``paths``.
        paths: Files relative to the dataset's root.
        width: In pixels, after EXIF orientation.
        height: In pixels, after EXIF orientation.
        datasets: The datasets it belongs to.
    """

    index: int
    image_id: str
    path: PurePosixPath
    paths: tuple[PurePosixPath, ...]
    width: int
    height: int
    datasets: tuple[str, ...]


@dataclass(frozen=True)
class PlannedQuery:
    """One question about one image; ``size`` is the image's (height, width).

    ``target_counts`` and ``ignore_counts`` are COCO run-length encodings, ``ignore_counts`` is
    None if every pixel counts.
    """

    query_id: str
    image_index: int
    image_id: str
    dataset: str
    split: str
    instruction: str
    question: str
    kind: str
    length: str
    topic: str
    size: tuple[int, int]
    target_counts: str
    ignore_counts: str | None

    def target(self) -> Rle:
        """Return the target mask."""
        return Rle(size=list(self.size), counts=self.target_counts)

    def ignore(self) -> Rle | None:
        """Return the mask of the pixels that count neither way."""
        if self.ignore_counts is None:
            return None
        return Rle(size=list(self.size), counts=self.ignore_counts)
