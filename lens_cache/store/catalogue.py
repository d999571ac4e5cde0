"""The tables of a store, the same in every format: manifest, plan and questions together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lens_cache.plan.plan import Plan
from lens_cache.store.layout import ArraySpec, Group, is_prefix, shard_images
from lens_cache.store.manifest import Manifest
from lens_cache.store.paths import PLAN_FOLDER, QUESTIONS_FILE
from lens_cache.store.questions import Questions
from lens_cache.store.shared import SharedFiles


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The tables of a store.

    Attributes:
        manifest: What the store contains.
        plan: Its images and queries.
        questions: The text tokens of every query.
    """

    manifest: Manifest
    plan: Plan
    questions: Questions

    @classmethod
    def load(cls, manifest: Manifest, shared: SharedFiles) -> Catalogue:
        """Read the tables that belong to a manifest; the store need not be complete.

        Args:
            manifest: The manifest.
            shared: The record that the tables are checked against.

        Raises:
            StoreError: If one is missing or unreadable.
            CorruptShardError: If one is not as recorded.
        """
        plan = Plan.load(shared.root / PLAN_FOLDER, shared.read)
        return cls(manifest, plan, Questions.load(shared.root / QUESTIONS_FILE, shared.read))

    @property
    def shard_size(self) -> int:
        """Images of a shard; the last one may have fewer."""
        return self.manifest.store.shard_size

    @cached_property
    def shards(self) -> list[range]:
        """Per shard its images, as indices in the plan."""
        return shard_images(self.plan.num_images, self.shard_size)

    @property
    def num_shards(self) -> int:
        """Shards of each group."""
        return len(self.shards)

    def images(self, shard: int) -> range:
        """Return the images of a shard, as indices in the plan."""
        return self.shards[shard]

    def image_id(self, image: int) -> str:
        """Return the id of an image."""
        return self._image_ids[image]

    def image_arrays(self, group: Group) -> dict[str, ArraySpec]:
        """Return the arrays of a group that have a part of every image, by name."""
        specs = self.manifest.arrays[group]
        return {name: spec for name, spec in specs.items() if not is_prefix(name)}

    def prefixes(self, group: Group) -> dict[str, ArraySpec]:
        """Return the arrays of a group that a store has once, by name."""
        specs = self.manifest.arrays[group]
        return {name: spec for name, spec in specs.items() if is_prefix(name)}

    def first_row(self, image: int) -> int:
        """Return the first text row of an image in the flat arrays."""
        queries = self.plan.query_range(image)
        return int(self.questions.offsets[queries.start]) if queries else 0

    def text_rows(self, image: int) -> int:
        """Return the number of text rows of all queries of an image; they are consecutive."""
        queries = self.plan.query_range(image)
        return int(self._rows_before[queries.stop] - self._rows_before[queries.start])

    def rows_of(self, query: int) -> range:
        """Return the text rows of a query, counted from the first row of its image."""
        start = int(self._rows_into_image[query])
        return range(start, start + len(self.questions.token_ids[query]))

    @cached_property
    def _image_ids(self) -> list[str]:
        ids: list[str] = self.plan.images["image_id"].to_pylist()
        return ids

    @cached_property
    def _rows_into_image(self) -> NDArray[np.int64]:
        """Row of each query's first token, counted from the first row of its image."""
        owners = self.plan.queries["image_index"].to_numpy()
        offsets = self.questions.offsets
        return np.asarray(offsets - offsets[self.plan.query_offsets[owners]])

    @cached_property
    def _rows_before(self) -> NDArray[np.int64]:
        """Per query the text rows of all queries before it, shape (num_queries + 1,)."""
        return np.cumsum([0, *map(len, self.questions.token_ids)], dtype=np.int64)
