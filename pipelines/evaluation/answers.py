"""The answers of a run to the queries of a split."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lens_cache.evaluation.mask_pairs import MaskPair, masks_of
from lens_cache.evaluation.scores import Sample, sample_of
from lens_cache.features.types import LensOutput
from lens_cache.store.store import Store
from lens_cache.training.data import Batch, FeatureDataset
from lens_cache.training.run import Run, Which, autocast
from lens_cache.training.sampling import Draw


class Answers:
    """Runs the model on the queries of one image at a time."""

    def __init__(
        self, run: Run, store: Store, which: Which | None = None, device: str = "cpu"
    ) -> None:
        """Load the run's model; see ``evaluate`` for the arguments."""
        self._run = run
        self._store = store
        self._device = device
        self._model = run.load_model(which).to(device)
        self._dataset = FeatureDataset(store, run.layer, run.config.loss)

    def of(self, draw: Draw) -> Iterator[tuple[Sample, MaskPair, LensOutput]]:
        """Yield result, masks and model output of each query of an image."""
        batch: Batch = FeatureDataset.collate([self._dataset[draw]])
        with torch.inference_mode(), autocast(self._run.config, self._device):
            answer = self._model(batch.features.to(self._device, torch.float32))
        threshold = self._run.config.mask_threshold
        for pair in masks_of(self._store, batch.draws, answer, threshold):
            yield sample_of(self._store, pair), pair, answer

    def query_id(self, query: int) -> str:
        """Return a query's id."""
        return self._store.plan.query(query).query_id
