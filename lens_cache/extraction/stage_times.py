"""How long each stage of an extraction is at work, and which one sets the pace.

Stages overlap, so their times do not add up to the time on the clock. What tells the slowest one is
how much of the clock it was busy: threads read, a device computes, one thread writes, and one
commits the shard before.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Which stages take turns at one place.
LANES = {
    "read": ("read",),
    "models": ("llava", "sam"),
    "write": ("write",),
    "commit": ("commit",),
}
# Below this share no lane is the bottleneck: they wait for each other, or for the machine.
_BUSY = 0.6


class StageTimes:
    """Seconds per stage; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Add to a stage."""
        with self._lock:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - began)

    def take(self) -> dict[str, float]:
        """Return the seconds so far and begin anew."""
        with self._lock:
            taken, self._seconds = self._seconds, {}
            return taken


def busy_shares(seconds: Mapping[str, float], wall: float, readers: int) -> dict[str, float]:
    """Return which share of the clock each lane was busy.

    Args:
        seconds: Seconds per stage, summed over shards; those of ``read`` over its threads too.
        wall: Seconds on the clock, summed over the same shards.
        readers: Threads that read in one worker.
    """
    threads = {"read": readers}
    return {
        lane: sum(seconds.get(stage, 0.0) for stage in stages) / (wall * threads.get(lane, 1))
        for lane, stages in LANES.items()
        if wall > 0 and any(stage in seconds for stage in stages)
    }


def bottleneck(shares: Mapping[str, float]) -> str | None:
    """Return the lane that was busy most, if one of them was busy most of the time."""
    lane = max(shares, key=lambda name: shares[name], default=None)
    return lane if lane is not None and shares[lane] >= _BUSY else None
