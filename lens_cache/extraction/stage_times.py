"""The time of each stage of an extraction, and which one is the bottleneck.

Stages overlap, so their times do not add up to the wall time. The slowest one was busy for the
largest share of it: threads read, a device computes, threads encode, one writes, and one commits
the previous shard.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lens_cache.extraction.threads import ENCODERS

# The stages that share a lane take turns.
LANES = {
    "read": ("read",),
    "models": ("llava", "sam"),
    "encode": ("encode",),
    "write": ("write",),
    "commit": ("commit",),
}
# Below this share no lane is reported as the bottleneck.
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
        """Return the seconds so far and reset them."""
        with self._lock:
            taken, self._seconds = self._seconds, {}
            return taken


def busy_shares(seconds: Mapping[str, float], wall: float, readers: int) -> dict[str, float]:
    """Return the share of the wall time that each lane was busy.

    Args:
        seconds: Seconds per stage, summed over shards; those of ``read`` and ``encode`` over their
            threads too.
        wall: Wall time in seconds, summed over the same shards.
        readers: Reading threads of one worker.
    """
    threads = {"read": readers, "encode": ENCODERS}
    return {
        lane: sum(seconds.get(stage, 0.0) for stage in stages) / (wall * threads.get(lane, 1))
        for lane, stages in LANES.items()
        if wall > 0 and any(stage in seconds for stage in stages)
    }


def bottleneck(shares: Mapping[str, float]) -> str | None:
    """Return the busiest lane; None if no lane was busy most of the time."""
    lane = max(shares, key=lambda name: shares[name], default=None)
    return lane if lane is not None and shares[lane] >= _BUSY else None
