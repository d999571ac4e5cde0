"""The most memory that a piece of work takes, and what becomes of it afterwards."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lens_cache.features.sizes import ceil_div

# Numbers of glibc's mallopt, with the largest values that it takes.
_KEEP_FREED = {-1: 2**31 - 1, -3: 32 << 20}
_BLOCK = 16 << 20
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
    _give_back()
    _RESET.write_text("5")  # sets the process's peak to what it holds now
    before = _kibibytes("VmRSS")
    work()
    return 1024 * (_kibibytes("VmHWM") - before)


def _give_back() -> None:
    """Hand what was freed back to the system: work before would lend it to the work measured."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def ready_memory(size: int) -> None:
    """Have memory at hand, and let this process keep what it frees, where the C library is glibc.

    Otherwise it is chance, which depends on what was freed before, whether an allocation of
    megabytes is fresh pages or not, and whether these are huge ones; either can cost more than
    filling them. NumPy asks for huge pages where it allocates 4 MB or more.

    Args:
        size: Bytes.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        for parameter, value in _KEEP_FREED.items():
            tune(parameter, value)
    blocks = [np.ones(_BLOCK, np.uint8) for _ in range(ceil_div(size, _BLOCK))]
    del blocks


def _kibibytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return int(found[1])
