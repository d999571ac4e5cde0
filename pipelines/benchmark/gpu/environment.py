"""Section ``environment``: what the machine is, and its two ceilings."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import distribution
from pathlib import Path

import torch

from lens_cache.extraction.computation import device_kind
from lens_cache.extraction.estimate import measure_flops_per_second
from lens_cache.features.transfer import on_gpu
from lens_cache.version import __version__
from pipelines.benchmark.gpu.device import finish
from pipelines.benchmark.gpu.findings import Findings
from pipelines.benchmark.gpu.scale import Scale

_PACKAGES = ("torch", "transformers", "lightning", "ray", "zarr", "numpy", "segment-anything")
_COPIES = 20


def environment(scale: Scale, device: str, scratch: Path, found: Findings) -> None:
    """Name the device and the versions; measure a matrix product and a copy."""
    facts: dict[str, str | float] = {
        "device": device_kind(device),
        "CPU cores": str(os.cpu_count()),
        "Python": platform.python_version(),
        "lens-cache": __version__,
        **{name: distribution(name).version for name in _PACKAGES},
    }
    size = 2**30 if on_gpu(device) else 2**24
    if on_gpu(device):
        card = torch.cuda.get_device_properties(device)
        facts |= {
            "memory": f"{card.total_memory / 1e9:.1f} GB",
            "multiprocessors": str(card.multi_processor_count),
            "compute capability": f"{card.major}.{card.minor}",
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),  # type: ignore[no-untyped-call]
        }
    speed, _ = measure_flops_per_second(scale.dtype, 0.5, device)
    facts[f"matrix product in {scale.dtype}"] = f"{speed / 1e12:.4g} TFLOP/s"
    facts["copy, bytes read and written"] = f"{_copy_speed(size, device) / 1e12:.3g} TB/s"
    for name, value in facts.items():
        found.row(what=name, value=value)


def _copy_speed(size: int, device: str) -> float:
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    finish(device)
    began = time.perf_counter()
    for _ in range(_COPIES):
        target.copy_(source)
    finish(device)
    return 2 * size * _COPIES / (time.perf_counter() - began)
