"""The plan of a store: tables of its images, queries and skipped entries.

A plan is made before any model runs (``build.build_plan``). Training needs no raw dataset: target
masks are in the plan, as run-length encodings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import methodcaller
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lens_cache.errors import StoreError
from lens_cache.plan.planned import PlannedImage, PlannedQuery
from lens_cache.plan.schema import (
    DRAWS,
    DRAWS_FILE,
    SCHEMAS,
    are_consistent,
    from_parquet,
    names_files,
    read_files,
    to_parquet,
)

__all__ = ["Plan", "PlannedImage", "PlannedQuery"]

_READ = methodcaller("read_bytes")


@dataclass(frozen=True, eq=False)
class Plan:
    """The images and queries of a store. Compare two plans by ``digest``.

    Attributes:
        images: Table of images (``schema.IMAGES``); the row is the index of an image.
        queries: Table of queries (``schema.QUERIES``), sorted by image.
        quarantine: Table of skipped entries with the reason (``schema.QUARANTINE``).
        draws: Table of the draws of LISA's sampler (``schema.DRAWS``), which training can replay
            (see ``drawn``); None if the plan has all queries of the dataset.
    """

    images: pa.Table
    queries: pa.Table
    quarantine: pa.Table
    draws: pa.Table | None = None

    @property
    def num_images(self) -> int:
        """Number of distinct images."""
        return int(self.images.num_rows)

    @property
    def num_queries(self) -> int:
        """Number of queries of all images."""
        return int(self.queries.num_rows)

    @property
    def num_draws(self) -> int:
        """Number of draws of LISA's sampler; 0 if the plan has all queries of the dataset."""
        return 0 if self.draws is None else int(self.draws.num_rows)

    @cached_property
    def query_offsets(self) -> NDArray[np.int64]:
        """First query of each image, then the number of queries; shape (num_images + 1,)."""
        owners = self.queries["image_index"].to_numpy()
        return np.searchsorted(owners, np.arange(self.num_images + 1)).astype(np.int64)

    def drawn(self, index: int) -> list[int]:
        """Return the positions in ``queries`` of one draw, in the order drawn.

        The list is empty if the drawn image was not readable.

        Raises:
            IndexError: If there is no such draw.
        """
        if self.draws is None or not 0 <= index < self.num_draws:
            raise IndexError(f"draw {index} of a plan with {self.num_draws} draws")
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
        """Return the positions in ``queries`` of the queries of an image."""
        return range(int(self.query_offsets[image]), int(self.query_offsets[image + 1]))

    def query_owner(self, index: int) -> int:
        """Return the index of the image of a query."""
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
        """Return the queries of one image in their order.

        Raises:
            IndexError: If there is no such image.
        """
        self._row(index)
        positions = self.query_range(index)
        return self._queries(positions.start, positions.stop)

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
        """Return the number of queries by split; with several datasets, by ``dataset|split``."""
        names = self.queries["split"]
        if len(pc.unique(self.queries["dataset"])) > 1:
            names = pc.binary_join_element_wise(self.queries["dataset"], names, "|")
        counts = pc.value_counts(names).to_pylist()
        return {item["values"]: item["counts"] for item in sorted(counts, key=_split_name)}

    def in_split(self, split: str | None) -> NDArray[np.bool_]:
        """Return a mask of the queries of a split, shape (num_queries,); all True for None.

        Args:
            split: ``val`` for the split of all datasets, ``reason_seg|val`` for that of one.
        """
        if split is None:
            return np.ones(self.num_queries, dtype=np.bool_)
        dataset, _, name = split.rpartition("|")
        found = pc.equal(self.queries["split"], name)
        if dataset:
            found = pc.and_(found, pc.equal(self.queries["dataset"], dataset))
        return np.asarray(found.to_numpy(), dtype=np.bool_)

    def select(self, split: str | None = None, limit_images: int | None = None) -> list[int]:
        """Return the first images that have a query of the split (by default, of any split)."""
        owners = self.queries["image_index"].to_numpy()[self.in_split(split)]
        return [int(index) for index in np.unique(owners)[:limit_images]]

    def digest(self) -> str:
        """Return the SHA-256 of the content; it does not depend on the Parquet encoding."""
        sha = hashlib.sha256()
        for name, table in self._tables().items():
            for column in table.column_names:
                sha.update(f"{name}.{column}:{table.num_rows}\n".encode())
                for start in range(0, table.num_rows, 4096):
                    values = table[column].slice(start, 4096).to_pylist()
                    sha.update(json.dumps(values).encode() + b"\n")
        return sha.hexdigest()

    def same_rows(self, other: Plan) -> bool:
        """Return whether two plans have the same images and queries, in the same order.

        The reasons of skipped inputs are texts for people and are not compared.
        """
        return bool(self.images.equals(other.images) and self.queries.equals(other.queries))

    def to_files(self) -> dict[str, bytes]:
        """Return the bytes of the Parquet files by name; equal plans give equal bytes."""
        return {f"{name}.parquet": to_parquet(table) for name, table in self._tables().items()}

    def _tables(self) -> dict[str, pa.Table]:
        tables = {name: getattr(self, name) for name in SCHEMAS}
        return tables if self.draws is None else {**tables, "draws": self.draws}

    def save(self, folder: Path | str) -> None:
        """Write the Parquet files into ``folder``, which is created if needed.

        The write is not atomic; a store renames the complete folder into place.

        Raises:
            StoreError: If the folder cannot be written.
        """
        folder = Path(folder) if isinstance(folder, str) else folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in self.to_files().items():
                (folder / name).write_bytes(data)
        except OSError as error:
            raise StoreError(f"writing the plan to {folder}: {error.strerror}") from None

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], *, where: str = "the plan") -> Plan:
        """Build a plan from the result of ``to_files``; ``where`` is used in errors.

        Raises:
            StoreError: If a file is missing or broken, or the files are of different plans.
        """
        schemas = {**SCHEMAS, "draws": DRAWS} if DRAWS_FILE in files else SCHEMAS
        tables = {
            name: from_parquet(files.get(f"{name}.parquet"), schema, f"{where}/{name}")
            for name, schema in schemas.items()
        }
        if not names_files(tables["images"]["image_id"]):
            raise StoreError(f"reading {where}: an image id is not a plain name; plan again")
        if not are_consistent(tables):
            raise StoreError(f"reading {where}: its tables do not belong together; plan again")
        return cls(**tables)

    @classmethod
    def load(cls, folder: Path | str, read: Callable[[Path], bytes] = _READ) -> Plan:
        """Read a plan written by ``save``.

        Args:
            folder: A local folder as ``str``, or any path object (a ``UPath`` for a URL).
            read: Returns the bytes of a file; a store checks them.

        Raises:
            StoreError: If there is no plan, or it cannot be read.
        """
        folder = Path(folder) if isinstance(folder, str) else folder
        return cls.from_files(read_files(folder, read), where=str(folder))

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.num_images:
            raise IndexError(f"image {index} of a plan with {self.num_images} images")
        return self.images.slice(index, 1).to_pylist()[0]  # type: ignore[no-any-return]


def _split_name(item: dict[str, Any]) -> str:
    return str(item["values"])
