"""Copies between host and device that neither side waits for.

On a GPU every copy goes through pinned memory on a stream of its own: inputs of the next batch and
results of the last one travel while the present one is computed. PyTorch's allocators keep a block
until the last stream that uses it is done with it, so nothing here counts buffers. On other devices
copies are plain.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor


class Arrival:
    """Values on their way to the host."""

    def __init__(self, values: dict[str, Tensor], done: torch.cuda.Event | None) -> None:
        self._values, self._done = values, done

    def wait(self) -> dict[str, Tensor]:
        """Return the values once they are there."""
        if self._done is not None:
            self._done.synchronize()
        return self._values


class Transfer:
    """The way to a device and back."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._up, self._down = _stream(self.device), _stream(self.device)

    def upload(self, values: Tensor) -> Tensor:
        """Copy a tensor of the host to the device; work queued after this call sees it whole."""
        if self._up is None:
            return values.to(self.device)
        with torch.cuda.stream(self._up):
            copy = values.pin_memory().to(self.device, non_blocking=True)
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self._up)
        copy.record_stream(computing)
        return copy

    def download(self, values: Mapping[str, Tensor]) -> Arrival:
        """Begin to copy what the work queued so far computes; the device goes on meanwhile."""
        if self._down is None:
            return Arrival({name: value.cpu() for name, value in values.items()}, None)
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        copies = {}
        with torch.cuda.stream(self._down):
            for name, value in values.items():
                copies[name] = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
                copies[name].copy_(value, non_blocking=True)
                value.record_stream(self._down)
        return Arrival(copies, self._down.record_event())

    def mark(self) -> Mark:
        """Return a point in the device's time: the end of the work queued so far."""
        return Mark(self.device)


class Mark:
    """A point in a device's time."""

    def __init__(self, device: torch.device) -> None:
        self._event: torch.cuda.Event | None = None
        self._moment = time.perf_counter()
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(device))

    def seconds_until(self, later: Mark) -> float:
        """Return the time between two points of one device, both of which have passed."""
        if self._event is None or later._event is None:
            return later._moment - self._moment
        return float(self._event.elapsed_time(later._event)) / 1000


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return a stream of its own, on a GPU."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
