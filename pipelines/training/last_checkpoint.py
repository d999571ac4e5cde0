"""``last.ckpt``: written whole, with finite weights only, and on a signal before the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from lens_cache.errors import TrainingError
from lens_cache.store.io.files import replacing
from pipelines.interrupt import Stop


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint next to its path and renames it into place.

    Lightning's own writes to ``$TMPDIR`` first; from another file system it is then copied over the
    old checkpoint, and a kill meanwhile leaves neither.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save a checkpoint; after a kill at any moment ``path`` is the old or the new one."""
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)


class LastCheckpoint(Callback):
    """Writes ``last.ckpt`` every ``every`` optimizer steps, after the last one, and on a signal.

    Args:
        path: The checkpoint.
        every: Optimizer steps between two checkpoints.
        stop: When it is requested, the step in progress is finished and saved.
    """

    def __init__(self, path: Path, every: int, stop: Stop) -> None:
        self._path = path
        self._every = every
        self._stop = stop
        self._step = self._saved = 0

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Store the step at which a resumed run starts, and take back the signals.

        Lightning's own handler of SIGTERM would end the run after the next batch, within a step.
        """
        self._stop.listen()
        self._step = self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save if this batch completed such a step.

        Raises:
            KeyboardInterrupt: After the save, if a stop is requested in any process.
        """
        step = trainer.global_step
        if step == self._step:  # the step has more batches
            return
        self._step = step
        stops = trainer.strategy.reduce_boolean_decision(self._stop.requested, all=False)
        if stops or step % self._every == 0 or step == trainer.max_steps:
            self._save(trainer)
        if stops and step < trainer.max_steps:
            raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Raise KeyboardInterrupt if a stop is requested; the step was saved before."""
        if self._stop.requested:
            raise KeyboardInterrupt

    def _save(self, trainer: Trainer) -> None:
        for name, weight in trainer.lightning_module.named_parameters():
            if weight.requires_grad and not weight.isfinite().all():
                raise TrainingError(
                    f"training step {self._step}: the weight {name} is not finite, so nothing was "
                    f"saved; {self._path} is of step {self._saved}; lower optimizer.lr and train a "
                    "new run"
                )
        trainer.save_checkpoint(self._path)
        self._saved = self._step
