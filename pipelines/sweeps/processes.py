"""The processes of a sweep: one GPU each where there are GPUs, and none of them outlives it."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get(_VISIBLE)
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def default_jobs() -> int:
    """Return how many runs fit at a time: one per GPU, or one per core without a GPU."""
    return len(visible_gpus()) or os.cpu_count() or 1


class Processes:
    """Runs Python modules in processes of their own; several threads may share it.

    Args:
        jobs: Number of processes at a time. They share the GPUs evenly.
    """

    def __init__(self, jobs: int) -> None:
        gpus = visible_gpus()
        self._places: queue.Queue[str | None] = queue.Queue()
        for number in range(jobs):
            self._places.put(gpus[number % len(gpus)] if gpus else None)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()

    def run(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        log: Path,
        environment: dict[str, str],
        pass_fds: Sequence[int],
    ) -> int:
        """Run ``python -m module arguments`` and return its exit code.

        The modules of this installation are used, whatever the working directory contains.

        Args:
            module: Name of the module.
            arguments: Its arguments.
            log: File for its output.
            environment: Environment variables that are added.
            pass_fds: File descriptors that it inherits.
        """
        with self._place() as gpu, log.open("wb") as output:
            visible = {} if gpu is None else {_VISIBLE: gpu}
            process = subprocess.Popen(
                # -P: the working directory is not a place to import from.
                [sys.executable, "-P", "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | environment | visible,
                pass_fds=pass_fds,
            )
            self._running.add(process)
            if self._stopped.is_set():
                process.terminate()
            try:
                return process.wait()
            finally:
                self._running.discard(process)

    def stop(self) -> None:
        """Send SIGTERM to all processes, and to those that are started from now on."""
        self._stopped.set()
        for process in tuple(self._running):
            process.terminate()

    @contextmanager
    def _place(self) -> Iterator[str | None]:
        """Take a GPU, or None if there is none, and give it back."""
        gpu = self._places.get()
        try:
            yield gpu
        finally:
            self._places.put(gpu)
