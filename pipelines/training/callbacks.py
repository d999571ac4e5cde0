"""Callbacks of a training run, and its progress bar."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from lens_cache.config.train import TrainConfig
from lens_cache.store.store import Store
from lens_cache.training.run import CHECKPOINTS
from pipelines.interrupt import Stop
from pipelines.training.last_checkpoint import LastCheckpoint
from pipelines.training.pictures import Pictures
from pipelines.training.throughput import Speed, WaitingTime


class Bar(TQDMProgressBar):
    """A bar over the whole run; a resumed run starts at the steps already done.

    In a log file it is updated every ``log_every`` batches only, and validations have no bar.
    """

    def __init__(self, log_every: int) -> None:
        self._on_terminal = sys.stderr.isatty()
        super().__init__(refresh_rate=1 if self._on_terminal else log_every)

    @property
    def total_train_batches(self) -> int:
        """Number of batches of the whole run."""
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Show the steps done before a resume."""
        super().on_train_start()
        self.train_progress_bar.reset(total=self.total_train_batches)
        self.train_progress_bar.initial = trainer.global_step * trainer.accumulate_grad_batches

    def get_metrics(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """Show gIoU in percent; the log has fractions."""
        found: dict[str, Any] = super().get_metrics(trainer, module)
        if "val/giou" in found:
            found["gIoU, %"] = f"{100 * float(found.pop('val/giou')):.1f}"
        return found

    def on_exception(self, *_: Any) -> None:
        """End the line of the bar, so that the message of the error starts a new one."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()

    def init_validation_tqdm(self) -> Tqdm:
        """Return the bar of a validation."""
        return super().init_validation_tqdm() if self._on_terminal else Tqdm(disable=True)


def callbacks(
    folder: Path, config: TrainConfig, store: Store, waiting: WaitingTime, stop: Stop
) -> list[Callback]:
    """Return progress, speed, ``last.ckpt`` and, with validation, ``best.ckpt`` and panels."""
    settings, checkpoints = config.trainer, folder / CHECKPOINTS
    found: list[Callback] = [
        Bar(settings.log_every),
        LearningRateMonitor("step"),
        Speed(waiting, settings.log_every),
        LastCheckpoint(checkpoints / "last.ckpt", settings.validate_every, stop),
    ]
    if config.batch.validation_split is not None:
        found.append(Pictures(folder, store, settings.pictures))
        found.append(
            ModelCheckpoint(
                checkpoints,
                filename="best",
                monitor="val/giou",
                mode="max",
                save_weights_only=True,
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            )
        )
    return found
