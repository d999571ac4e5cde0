"""Errors of a device or its libraries, which no image caused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lens_cache.errors import ExtractionError, one_line
from lens_cache.extraction.out_of_memory import out_of_memory

# cuBLAS and cuDNN report a broken or full device as a plain RuntimeError.
_TEXTS = ("CUDA error", "CUDA driver error", "CUBLAS_STATUS_", "CUDNN_STATUS_", "cuDNN Frontend")


class DeviceError(ExtractionError):
    """A device failed."""


def device_failed(error: RuntimeError) -> bool:
    """Return whether an error of PyTorch is one of the device, and not of its input."""
    if out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or any(text in str(error) for text in _TEXTS)


@contextmanager
def device_errors() -> Iterator[None]:
    """Turn an error of the device into ``DeviceError``."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, DeviceError) or not device_failed(error):
            raise
        raise device_error(error, "the device failed") from None


def device_error(error: RuntimeError, found: str) -> DeviceError:
    """Return the error that ends the work of this process.

    Args:
        error: The error of PyTorch.
        found: What it shows, for the message.
    """
    return DeviceError(
        f"running the models: {found} ({type(error).__name__}: {one_line(error)}); no image is to "
        "blame. Look at the driver's log (dmesg, nvidia-smi), then run the same command again"
    )
