"""Peak memory of a piece of work, and memory that is ready before a measurement."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lens_cache.features.sizes import ceil_div
from lens_cache.features.transfer import on_gpu

# Options of glibc's mallopt (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD) with their largest values.
_KEEP_FREED = {-1: 2**31 - 1, -3: 32 << 20}
_BLOCK = 16 << 20
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def extra_memory(work: Callable[[], object], device: str) -> int | None:
    """Run some work and return its peak memory in bytes, minus the memory in use before.

    On a GPU it is the memory of PyTorch's allocator, otherwise the resident memory of the process.
    Returns None where the system does not report it.
    """
    if on_gpu(device):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    if not _STATUS.exists():
        work()
        return None
    _give_back()
    _RESET.write_text("5")  # resets the peak to the current size
    before = _kibibytes("VmRSS")
    work()
    return 1024 * (_kibibytes("VmHWM") - before)


def _give_back() -> None:
    """Return freed memory to the system, so that the measured work cannot reuse it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def ready_memory(size: int) -> None:
    """Allocate and free memory, and keep freed memory in this process, where libc is glibc.

    Otherwise earlier frees decide whether an allocation of megabytes needs fresh pages, and whether
    these are huge pages; fresh pages can cost more than filling them. NumPy requests huge pages for
    allocations of 4 MB or more.

    Args:
        size: Number of bytes.
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
