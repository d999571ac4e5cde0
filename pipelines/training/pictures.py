"""Panels of the same few validation queries at every validation, to see them change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from lens_cache.evaluation.mask_pairs import MaskPair, sample_of
from lens_cache.features.types import LensOutput
from lens_cache.images.panels import Panel
from lens_cache.store.store import Store
from lens_cache.training.data import Batch
from pipelines.evaluation.panels import evenly_spaced, panel_of, read_photo
from pipelines.training.loggers import log_picture

PICTURES = "pictures"


class Pictures(Callback):
    """Draws one query of some validation images into ``RUN/pictures/step_N``, and logs the panels.

    Args:
        folder: The run.
        store: The store of the queries.
        count: Number of panels, evenly spaced over the validation images.
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
        """Draw the first query of a chosen image."""
        chosen = evenly_spaced(int(trainer.num_val_batches[0]), self._count)
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

    def _panel(self, pair: MaskPair, answer: LensOutput) -> Panel:
        sample = sample_of(self._store.plan, pair)
        root = self._store.manifest.data_root
        return panel_of(sample, pair, answer, read_photo(root, sample.image))
