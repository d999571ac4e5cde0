"""What a device reports: time, memory, synchronisations, attention shapes, kernels."""

from __future__ import annotations

import gc
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from lens_cache.features.transfer import on_gpu
from pipelines.reports.units import shorten

_KERNELS = 12

Shape = tuple[str, tuple[int, ...], tuple[int, ...]]


def finish(device: str) -> None:
    """Wait until a device has done all of its work."""
    if on_gpu(device):
        torch.cuda.synchronize()


def forget(device: str) -> None:
    """Give unused memory back to the device, and start to measure its peak."""
    gc.collect()
    if on_gpu(device):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gb(device: str) -> float | None:
    """Return the peak of PyTorch's allocated memory since ``forget``, in GB; None on a CPU."""
    return torch.cuda.max_memory_allocated() / 1e9 if on_gpu(device) else None


def used_gb(device: str) -> float | None:
    """Return the memory in use on a GPU by all programs, as nvidia-smi shows it; None on a CPU."""
    if not on_gpu(device):
        return None
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


def synchronisations(work: Callable[[], object], device: str) -> int | None:
    """Run some work; return how often it made the host wait for the GPU. None on a CPU."""
    if not on_gpu(device):
        work()
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


@contextmanager
def attention_shapes() -> Iterator[Counter[Shape]]:
    """Count the calls of PyTorch's fused attention inside the block, by kind and shapes."""
    found: Counter[Shape] = Counter()
    plain = F.scaled_dot_product_attention

    def counted(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Tensor:
        mask = options.get("attn_mask", rest[1] if len(rest) > 1 else None)
        kind = "masked" if mask is not None else "causal" if options.get("is_causal") else "full"
        found[kind, tuple(query.shape), tuple(key.shape)] += 1
        return plain(query, key, *rest, **options)

    F.scaled_dot_product_attention = counted
    try:
        yield found
    finally:
        F.scaled_dot_product_attention = plain


def timed(work: Callable[[], object]) -> float:
    """Return the seconds of some work that ends with results on the host."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def longest_kernels(work: Callable[[], object], device: str) -> list[str]:
    """Run some work; return a sentence for each of the kernels that took most of its time.

    On a CPU these are PyTorch's operators.
    """
    activity = ProfilerActivity.CUDA if on_gpu(device) else ProfilerActivity.CPU
    with profile(activities=[activity]) as found:
        work()
        finish(device)
    clock = "self_device_time_total" if on_gpu(device) else "self_cpu_time_total"
    events = sorted(found.key_averages(), key=lambda event: -getattr(event, clock))
    total = sum(getattr(event, clock) for event in events)
    return [
        f"kernel {shorten(event.key)}: {getattr(event, clock) / total:.1%} of the time, "
        f"{event.count} calls"
        for event in events[:_KERNELS]
        if total
    ]
