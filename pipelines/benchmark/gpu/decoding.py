"""Section ``decode``: how fast stored precisions are read."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.benchmark import precision
from pipelines.benchmark.gpu.findings import Findings
from pipelines.benchmark.gpu.scale import FULL, Scale
from pipelines.progress import Silent


def decode(scale: Scale, device: str, scratch: Path, found: Findings) -> None:
    """Measure on the CPU how fast records in each precision are read and decoded."""
    torch.set_num_threads(1)  # as in a loader process
    full = scale is FULL
    result = precision.benchmark_precision(
        Silent(), full_size=full, images=32 if full else 2, rounds=3
    )
    for one in result.precisions:
        found.row(
            **{
                "precision": one.precision,
                "a record, MB": one.record_bytes / 1e6,
                "records/s": one.records_per_second,
                "ratio": one.ratio,
                "largest relative error": max(one.errors.values()),
            }
        )
    found.note(f"{result.records}; one thread, files in the page cache")
