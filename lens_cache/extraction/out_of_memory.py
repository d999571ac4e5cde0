"""What is done where memory has run out."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import TypeVar

import torch

from lens_cache.errors import ExtractionError, one_line

T = TypeVar("T")

# How PyTorch says that a CPU has no memory left; on GPUs it has an exception of its own.
_NO_HOST_MEMORY = ("DefaultCPUAllocator", "not enough memory")
# Workers that share a device come to their peaks at different moments.
_PAUSES_SECONDS = (1.0, 5.0)


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of PyTorch says that a device or the host has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in _NO_HOST_MEMORY
    )


def within_memory(doing: str, function: Callable[[], T]) -> T:
    """Call what cannot be made smaller; if memory runs out, wait and try again, twice.

    Args:
        doing: What it does, for the error.
        function: Is called anew for each try.

    Raises:
        ExtractionError: If there was not enough memory at any time.
    """
    for pause in (*_PAUSES_SECONDS, None):
        try:
            return function()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {one_line(error)}"
        # Here the error is gone, and with it the frames that held what was allocated.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if pause is not None:
            time.sleep(pause)
    raise ExtractionError(
        f"{doing}: memory ran out ({reason}); end what else uses it, or let fewer workers share "
        "it (lower workers.count, or raise workers.gpus_per_worker on a GPU), then run the same "
        "command again"
    )
