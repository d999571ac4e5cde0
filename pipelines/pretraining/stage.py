"""The training loop of all stages: processes, steps, log, measurements."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn

from lens_cache.progress import Progress
from pipelines.pretraining.optimizer import Optimizer

SMOOTHING = 0.98
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The schedule of a stage.

    Attributes:
        steps: Number of optimizer steps.
        batch: Images per step, over all processes.
        lr: Peak learning rate.
        measure_every: Steps between two measurements on validation scenes.
        log_every: Steps between two lines of the log.
        seed: Seed of weights and batches.
    """

    steps: int
    batch: int
    lr: float
    measure_every: int = 500
    log_every: int = 50
    seed: int = 0


class Stage(Protocol):
    """One model in training."""

    name: str

    @property
    def model(self) -> nn.Module:
        """The trained model."""
        ...

    def loss(self, rng: np.random.Generator, count: int, done: float) -> Tensor:
        """Return the mean loss of a new batch of ``count`` images; ``done`` goes from 0 to 1."""
        ...

    def measure(self) -> dict[str, float]:
        """Return figures on scenes that are not trained on."""
        ...

    def save(self) -> None:
        """Write the files for the next stage or the user."""
        ...


@dataclass(frozen=True)
class Processes:
    """This process among its equals."""

    rank: int
    count: int
    device: torch.device

    def average(self, parameters: list[nn.Parameter]) -> None:
        """Give every process the mean gradient."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        sizes = [gradient.numel() for gradient in gradients]
        parts = torch.split(flat / self.count, sizes)
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def fit(
    stage: Stage, schedule: Schedule, folder: Path, processes: Processes, progress: Progress
) -> None:
    """Train a stage and save it; the log is ``folder/NAME.jsonl``."""
    rng = np.random.default_rng([schedule.seed, processes.rank])
    optimizer = Optimizer(stage.model, lr=schedule.lr, steps=schedule.steps)
    count = max(1, schedule.batch // processes.count)
    begin, mean, weight = time.monotonic(), 0.0, 0.0
    chief = processes.rank == 0
    stage.model.train()
    with (folder / f"{stage.name}.jsonl").open("w" if chief else "a", buffering=1) as log:
        for step in range(1, schedule.steps + 1):
            loss = stage.loss(rng, count, (step - 1) / schedule.steps)
            loss.backward()  # type: ignore[no-untyped-call]
            processes.average(optimizer.parameters)
            optimizer.step()
            mean = SMOOTHING * mean + (1 - SMOOTHING) * float(loss.detach())
            weight = SMOOTHING * weight + 1 - SMOOTHING
            if not chief:
                continue
            progress(stage.name, step, schedule.steps)
            line: dict[str, float] = {}
            if step % schedule.log_every == 0 or step == schedule.steps:
                line = {"step": step, "seconds": time.monotonic() - begin, "loss": mean / weight}
            if step % schedule.measure_every == 0 or step == schedule.steps:
                stage.model.eval()
                line |= {"step": step, **stage.measure()}
                stage.model.train()
                stage.save()
            if line:
                log.write(json.dumps({k: round(v, 4) for k, v in line.items()}) + "\n")


def run_in_processes(count: int, function: Callable[..., None], *arguments: object) -> None:
    """Call ``function(Processes, *arguments)`` in this process, or in ``count`` new ones.

    One process uses a GPU if there is one; several processes use the CPU, with one thread each.
    """
    if count == 1:
        torch.set_num_threads(1)
        device = torch.device("cuda") if torch.cuda.is_available() else CPU
        function(Processes(0, 1, device), *arguments)
        return
    # Otherwise glibc returns memory to the system and requests it again at every step.
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34)}
    spawn: Any = multiprocessing.spawn  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        spawn(_one_of, (count, meeting, function, arguments), nprocs=count)


def _one_of(
    rank: int,
    count: int,
    meeting: str,
    function: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=count)
    try:
        function(Processes(rank, count, CPU), *arguments)
    finally:
        dist.destroy_process_group()
