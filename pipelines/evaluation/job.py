"""One evaluation as a description from which any process can build the same answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lens_cache.config.load import to_tree
from lens_cache.evaluation.split import EvaluationSplit
from lens_cache.predictor import LensPredictor
from lens_cache.predictor.trained_head import TrainedHead
from lens_cache.store.store import Store
from lens_cache.training.run import Run, Which, require_same_features
from lens_cache.version import __version__
from pipelines.evaluation.answers import Answers, ComputedFeatures, StoredFeatures


@dataclass(frozen=True, kw_only=True)
class Job:
    """A head on a split.

    Attributes:
        head: The trained head.
        split: The queries.
        store: A store with their features; None to compute them with the frozen models.
        overrides: Paths of the frozen models on this machine; see ``LensPredictor``.
        device: Device of all models.
    """

    head: TrainedHead
    split: EvaluationSplit
    store: Path | None = None
    overrides: tuple[str, ...] = ()
    device: str = "cpu"

    @classmethod
    def of_run(
        cls,
        run: Run,
        store: Store,
        split: str,
        *,
        which: Which | None = None,
        limit: int | None = None,
        device: str = "cpu",
    ) -> Job:
        """Return the job of a run on a split of a store.

        Args:
            run: The run.
            store: A store with the features that it was trained on.
            split: Split of the queries.
            which: Checkpoint; by default the best one, or the last one if there is no best one.
            limit: Use only this many images, the first ones.
            device: Device of the model.

        Raises:
            LensCacheError: If run and store do not fit, or the split is empty.
        """
        run.require_features_of(store)
        return cls(
            head=TrainedHead.of_run(run, which),
            split=EvaluationSplit.of_store(store, split, limit),
            store=store.root,
            device=device,
        )

    def build(self) -> Answers:
        """Load what answers the queries.

        Raises:
            StoreMismatchError: If the store, or the frozen models, are not those of the head.
        """
        config = self.head.config
        if config.trainer.threads is not None:
            torch.set_num_threads(config.trainer.threads)
        if self.store is None:
            predictor = LensPredictor(self.head, overrides=self.overrides, device=self.device)
            computed = ComputedFeatures(predictor, self.split.plan, self.split.root)
            return Answers(predictor.segmenter.model, config, self.split, computed, self.device)
        store = Store(self.store)
        require_same_features(self.head.fingerprints, store.manifest, store.root, self.head.layer)
        stored = StoredFeatures(store, self.head.layer)
        return Answers(self.head.build(store.frozen()), config, self.split, stored, self.device)

    def key(self) -> dict[str, Any]:
        """Return everything on which the masks depend, except for the last bits of a device."""
        return {
            "version": __version__,
            "head": self.head.digest(),
            "settings": to_tree(self.head.config),
            "split": self.split.name,
            "queries": self.split.digest(),
            "features": "computed" if self.store is None else str(self.store),
            "device": torch.device(self.device).type,
        }
