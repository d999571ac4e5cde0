"""Asynchronous copies between host and device.

On a GPU every copy goes through pinned memory on a stream of its own: inputs of the next batch and
results of the last one are copied while the current batch is computed. PyTorch's allocators keep a
block until the last stream that uses it is done, so no buffers are managed here. On other devices
copies are synchronous.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# torch.cuda has no types for its constructors.
cuda: Any = torch.cuda


def on_gpu(device: torch.device | str) -> bool:
    """Return whether a device is a CUDA GPU."""
    return torch.device(device).type == "cuda"


class Arrival:
    """Values that are being copied to the host."""

    def __init__(self, values: dict[str, Tensor], done: torch.cuda.Event | None) -> None:
        self._values = values
        self._done = done

    def wait(self) -> dict[str, Tensor]:
        """Wait for the copies and return the values."""
        if self._done is not None:
            self._done.synchronize()
        return self._values


class Transfer:
    """Copies to a device and back."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._up = _stream(self.device)
        self._down = _stream(self.device)

    def upload(self, values: Tensor) -> Tensor:
        """Copy a tensor to the device; work queued after this call uses the finished copy."""
        if self._up is None:
            return values.to(self.device)
        with torch.cuda.stream(self._up):
            copy = values.pin_memory().to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._up)
        copy.record_stream(computing)
        return copy

    def download(self, values: Mapping[str, Tensor]) -> Arrival:
        """Start copying results of the work queued so far, without waiting for it."""
        if self._down is None:
            return Arrival({name: value.cpu() for name, value in values.items()}, None)
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        copies = {}
        with torch.cuda.stream(self._down):
            for name, value in values.items():
                copies[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                copies[name].copy_(value, non_blocking=True)
                value.record_stream(self._down)
        # The host sleeps until it is done, instead of keeping a core busy.
        return Arrival(copies, self._down.record_event(cuda.Event(blocking=True)))

    def mark(self) -> Mark:
        """Return a time mark at the end of the work queued so far."""
        return Mark(self.device)


class Mark:
    """A point in time of a device."""

    def __init__(self, device: torch.device) -> None:
        self._event: torch.cuda.Event | None = None
        self._moment = time.perf_counter()
        if on_gpu(device):
            self._event = cuda.Event(enable_timing=True)
            self._event.record(torch.cuda.current_stream(device))

    def seconds_until(self, later: Mark) -> float:
        """Return the time from this mark to a later one of the device; both must have passed."""
        if self._event is None or later._event is None:
            return later._moment - self._moment
        return float(self._event.elapsed_time(later._event)) / 1000


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return a new stream on a GPU, None on other devices."""
    return cuda.Stream(device) if on_gpu(device) else None
