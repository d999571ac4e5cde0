"""The answers of a trained head to the queries of a split, from stored or computed features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

from lens_cache.config.train import TrainConfig
from lens_cache.evaluation.mask_pairs import MaskPair, masks_of, sample_of
from lens_cache.evaluation.scores import Sample
from lens_cache.evaluation.split import EvaluationSplit
from lens_cache.features.types import Features, ImageFeatures, LensOutput
from lens_cache.images.files import read_image_file
from lens_cache.models.lens import LensModel
from lens_cache.plan.plan import Plan
from lens_cache.predictor import LensPredictor
from lens_cache.store.store import Store
from lens_cache.training.run import autocast
from lens_cache.training.sampling import Draw


class FeatureSource(Protocol):
    """Where the features of a query come from."""

    @property
    def side(self) -> int:
        """Side of the square frame in pixels."""
        ...

    def read(self, draw: Draw) -> ImageFeatures:
        """Return the features of an image and its queries."""
        ...


class StoredFeatures:
    """Features of a store; no frozen model runs."""

    def __init__(self, store: Store, layer: int) -> None:
        self._store = store
        self._layer = layer
        self.side = store.manifest.side

    def read(self, draw: Draw) -> ImageFeatures:
        """See ``FeatureSource``."""
        return self._store.read(draw.image, draw.queries, self._layer)


class ComputedFeatures:
    """Features that the frozen models of a predictor compute now."""

    def __init__(self, predictor: LensPredictor, plan: Plan, root: Path) -> None:
        self._predictor = predictor
        self._plan = plan
        self._root = root
        self.side = predictor.segmenter.frozen.side

    def read(self, draw: Draw) -> ImageFeatures:
        """See ``FeatureSource``."""
        image = read_image_file(self._root, self._plan.image(draw.image).path)
        questions = [self._plan.query(query).question for query in draw.queries]
        return self._predictor.features(image, questions)


class Answers:
    """Runs a head on the queries of one image at a time."""

    def __init__(
        self,
        model: LensModel,
        config: TrainConfig,
        split: EvaluationSplit,
        source: FeatureSource,
        device: str = "cpu",
    ) -> None:
        """Keep what is needed to answer.

        Args:
            model: The trained model.
            config: Settings of its training.
            split: The queries.
            source: Their features.
            device: Device of the model.
        """
        self.split = split
        self._config = config
        self._source = source
        self._device = device
        self._model = model.to(device)

    def of(self, draw: Draw) -> Iterator[tuple[Sample, MaskPair, LensOutput]]:
        """Yield result, masks and model output of each query of an image."""
        features = Features.stack([self._source.read(draw)])
        with torch.inference_mode(), autocast(self._config, self._device):
            output = self._model(features.to(self._device, torch.float32))
        plan, threshold = self.split.plan, self._config.mask_threshold
        for pair in masks_of(plan, self._source.side, [draw], output, threshold):
            yield sample_of(plan, pair), pair, output
