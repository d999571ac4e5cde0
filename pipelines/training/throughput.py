"""Throughput of a training run, and the share of time spent waiting for data."""

from __future__ import annotations

import sys
import time
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import rank_zero_only

from lens_cache.training.data import Batch

_WARN_ABOVE = 0.5  # share of the time spent waiting


class WaitingTime(Profiler):
    """Measures the time spent waiting for training batches.

    Waiting does not count while the GPU still has queued work.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._began = 0.0
        self._work: Any = None  # CUDA event after the queued work, if training is on a GPU

    def start(self, action_name: str) -> None:
        """Start the clock when a batch is requested."""
        if action_name.endswith("train_dataloader_next"):
            self._began = time.perf_counter()
            if _on_gpu():
                self._work = torch.Event("cuda")
                self._work.record()

    def stop(self, action_name: str) -> None:
        """Stop the clock when the batch has arrived."""
        if action_name.endswith("train_dataloader_next") and (
            self._work is None or self._work.query()
        ):
            self.seconds += time.perf_counter() - self._began


class Speed(Callback):
    """Logs samples per second, the time of a step and the share of it spent waiting for data.

    Validations and checkpoints do not count.

    Args:
        waiting: The profiler of the trainer.
        log_every: Optimizer steps between two rows of the log.
    """

    def __init__(self, waiting: WaitingTime, log_every: int) -> None:
        self._waiting = waiting
        self._log_every = log_every
        self._warned = False
        self._lines = 0
        self._reset(0)

    def _reset(self, step: int) -> None:
        self._step = step
        self._images = 0
        self._questions = 0
        self._busy = 0.0
        self._waiting.seconds = 0.0

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Reset the counts."""
        self._reset(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Batch, *_: Any) -> None:
        """Count a batch."""
        self._began = time.perf_counter()
        self._images += len(batch.draws)
        self._questions += sum(batch.features.num_questions)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        """Log every ``log_every`` steps."""
        self._busy += time.perf_counter() - self._began
        steps = trainer.global_step - self._step
        if not steps or trainer.global_step % self._log_every:
            return
        seconds = self._busy + self._waiting.seconds
        share = self._waiting.seconds / seconds
        values = {
            "images_per_s": self._images * trainer.world_size / seconds,
            "questions_per_s": self._questions * trainer.world_size / seconds,
            "step_s": seconds / steps,
            "waiting": share,
        }
        if _on_gpu():
            values["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        rows = {f"speed/{name}": torch.tensor(value) for name, value in values.items()}
        module.log_dict(rows, batch_size=1)
        self._lines += 1
        # The first row includes the start of workers and cold file caches.
        if share > _WARN_ABOVE and self._lines > 1 and not self._warned:
            self._warned = True
            _warn(share)
        self._reset(trainer.global_step)


def _on_gpu() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@rank_zero_only
def _warn(share: float) -> None:
    print(
        f"\nlens-cache: {100 * share:.0f} % of the time is spent waiting for data; set "
        "batch.loader_workers higher, put the store on a local disk, or, behind a network, set "
        "batch.window or batch.order=stream",
        file=sys.stderr,
    )
