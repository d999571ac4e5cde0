"""The most memory that a piece of work takes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def extra_memory(work: Callable[[], object], device: str) -> int | None:
    """Run some work; return the bytes it took at its peak beyond what was there before.

    On a GPU they are those of PyTorch's allocator, else those of the process as Linux counts them;
    nothing where neither says.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    if not _STATUS.exists():
        work()
        return None
    _RESET.write_text("5")  # sets the process's peak to what it holds now
    before = _kibibytes("VmRSS")
    work()
    return 1024 * (_kibibytes("VmHWM") - before)


def _kibibytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return int(found[1])
