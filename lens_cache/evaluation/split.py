"""What an evaluation measures: the queries of a split, with their true masks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from lens_cache.config.data import DataConfig
from lens_cache.datasets.base import dataset_root
from lens_cache.errors import DatasetError
from lens_cache.plan.build import build_plan
from lens_cache.plan.plan import Plan
from lens_cache.progress import Progress, no_progress
from lens_cache.store.store import Store
from lens_cache.training.data import evaluation_draws
from lens_cache.training.sampling import Draw, split_queries


@dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """The queries of a split.

    Attributes:
        plan: Images and queries with their true masks.
        name: Name of the split.
        limit: Most images that were asked for; None for the whole split.
        draws: One for each image, with all its queries in the split.
        root: Folder of the image files.
        origin: The store or the dataset, for reports.
        quarantined: Images that could not be extracted, or entries that could not be read, in any
            split.
    """

    plan: Plan
    name: str
    limit: int | None
    draws: tuple[Draw, ...]
    root: Path
    origin: str
    quarantined: int

    @classmethod
    def of_store(cls, store: Store, name: str, limit: int | None = None) -> EvaluationSplit:
        """Return a split of a store.

        Raises:
            StoreError: If it has no image.
        """
        return cls(
            plan=store.plan,
            name=name,
            limit=limit,
            draws=tuple(evaluation_draws(store, name, limit)),
            root=store.manifest.data_root,
            origin=str(store.root),
            quarantined=store.num_quarantined,
        )

    @classmethod
    def of_data(
        cls,
        config: DataConfig,
        name: str,
        limit: int | None = None,
        progress: Progress = no_progress,
    ) -> EvaluationSplit:
        """Return a split of a dataset, without a store; reads the header of every image.

        Raises:
            ConfigError: If a setting does not fit the dataset.
            DatasetError: If the dataset cannot be read, or the split has no image.
        """
        root = dataset_root(config)
        plan = build_plan(config, progress=progress)
        images = plan.select(name, limit)
        if not images:
            raise DatasetError(
                f"choosing split {name!r} of {root}: no image; it has "
                + ", ".join(f"{split} ({count} queries)" for split, count in plan.splits().items())
            )
        queries = split_queries(plan, images, name)
        return cls(
            plan=plan,
            name=name,
            limit=limit,
            draws=tuple(Draw(*pair) for pair in zip(images, queries, strict=True)),
            root=root,
            origin=f"{config.kind} in {root}",
            quarantined=plan.quarantine.num_rows,
        )

    def digest(self) -> str:
        """Return the SHA-256 of its queries; their ids are digests of their content."""
        rows = [query for draw in self.draws for query in draw.queries]
        ids = self.plan.queries["query_id"].take(rows).to_pylist()
        return hashlib.sha256("\n".join(ids).encode()).hexdigest()
