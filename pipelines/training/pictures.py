"""The same few validation answers, drawn at every validation, so that one sees them change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lens_cache.evaluation.mask_pairs import MaskPair
from lens_cache.evaluation.scores import sample_of
from lens_cache.features.types import Segmentation
from lens_cache.images.panels import Panel
from lens_cache.store.store import Store
from lens_cache.training.data import Batch
from pipelines.evaluation.panels import panel_of, read_photo
from pipelines.training.loggers import log_picture

PICTURES = "pictures"


class Pictures(Callback):
    """Draws a question each of some images into ``RUN/pictures/step_N``, and for the loggers.

    Args:
        folder: The run.
        store: Where the questions come from.
        count: How many, evenly spread over the validation images.
    """

    def __init__(self, folder: Path, store: Store, count: int) -> None:
        self._folder, self._store, self._count = folder / PICTURES, store, count

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        *_: Any,
    ) -> None:
        """Draw the first question of a chosen image."""
        chosen = _spread(int(trainer.num_val_batches[0]), self._count)
        if trainer.global_rank or batch_idx not in chosen:
            return
        pair: MaskPair = outputs["pairs"][0]
        name = f"{chosen.index(batch_idx):02d}_{self._store.plan.query(pair.query).query_id}"
        picture = self._panel(pair, outputs["segmentation"]).draw()
        folder = self._folder / f"step_{trainer.global_step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{name}.png")
        for logger in trainer.loggers:
            log_picture(logger, f"pictures/{name}", picture, trainer.global_step)

    def _panel(self, pair: MaskPair, answer: Segmentation) -> Panel:
        sample = sample_of(self._store, pair)
        root = self._store.manifest.data_root
        return panel_of(sample, pair, answer, read_photo(root, sample.image))


def _spread(total: int, count: int) -> list[int]:
    """Choose up to ``count`` of ``total`` places evenly."""
    return [int(place) for place in np.linspace(0, total - 1, min(count, total)).round()]
