"""Retry when memory runs out."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from lens_cache.errors import ExtractionError, one_line

T = TypeVar("T")

# Messages of PyTorch when the host, or a library of the GPU, is out of memory; PyTorch's own
# allocator of the GPU has an exception of its own.
_NO_MEMORY = ("DefaultCPUAllocator", "not enough memory", "_STATUS_ALLOC_FAILED")
# Workers that share a device reach their peaks at different moments.
_PAUSES_SECONDS = (1.0, 5.0)


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of PyTorch means that a device or the host is out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in _NO_MEMORY
    )


def within_memory(doing: str, function: Callable[[], T]) -> T:
    """Call a function; if memory runs out, wait and try again, twice.

    Args:
        doing: What the function does, for the error.
        function: Called once per try.

    Raises:
        ExtractionError: If memory ran out every time.
    """
    for pause in (*_PAUSES_SECONDS, None):
        try:
            return function()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {one_line(error)}"
        # Here the error is released, and with it the frames that referenced the allocations.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if pause is not None:
            time.sleep(pause)
    raise ExtractionError(
        f"{doing}: memory ran out ({reason}); stop other programs that use it, or let fewer "
        "workers share it (lower workers.count, or raise workers.gpus_per_worker on a GPU), then "
        "run the same command again"
    )
