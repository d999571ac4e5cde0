"""What rounding depends on: the device, the versions of libraries, the kernels that they choose.

Features of the same models and settings are equal to the last bit only if all of this is equal. So
every commit records it, and an extraction refuses a second kind of device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch

from lens_cache.config.extract import WorkersConfig
from lens_cache.features.transfer import on_gpu

DEVICE = "device"
# Read by cuBLAS when it starts; without a fixed workspace its products are not deterministic.
_CUBLAS_WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def device_kind(device: str) -> str:
    """Return the kind of a device: the name of a GPU, or the instruction set of a CPU.

    Raises:
        RuntimeError: If the device cannot be used.
    """
    if on_gpu(device):
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.backends.cpu.get_cpu_capability()})"


def describe_computation(device: str, workers: WorkersConfig, batch: int) -> dict[str, str]:
    """Return what the rounding of features depends on, beside models and settings of the store.

    Args:
        device: The device of the models.
        workers: How the extraction runs.
        batch: Images that a model processes at once.
    """
    facts = {DEVICE: device_kind(device), "images_per_batch": str(batch)}
    facts |= {name: version(name) for name in ("transformers", "segment-anything")}
    facts["torch"] = torch.__version__  # with the build, unlike the version of the package
    if on_gpu(device):
        facts["cuda"] = str(torch.version.cuda)
        facts["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
        facts["attention"] = ", ".join(name for name, enabled in _backends().items() if enabled)
        facts["float32_products"] = torch.get_float32_matmul_precision()
    else:
        facts["threads"] = str(workers.threads_per_worker)
    facts["compile"] = str(workers.compile).lower()
    facts["deterministic"] = str(workers.deterministic).lower()
    return facts


def _backends() -> dict[str, bool]:
    """Return the implementations of attention, and whether PyTorch may choose each."""
    cuda: Any = torch.backends.cuda
    return {
        "cudnn": cuda.cudnn_sdp_enabled(),
        "efficient": cuda.mem_efficient_sdp_enabled(),
        "flash": cuda.flash_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Use deterministic kernels inside the block if wanted, and only those.

    Enter it before CUDA starts in this process: cuBLAS reads its setting then.

    Raises:
        RuntimeError: Inside the block, if an operation has no deterministic kernel.
    """
    if not wanted:
        yield
        return
    name, value = _CUBLAS_WORKSPACE
    os.environ.setdefault(name, value)
    cudnn, memory = torch.backends.cudnn, torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark
    filled = memory.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        torch.use_deterministic_algorithms(True)
        # All memory is written before it is read; to fill it first would only take time.
        memory.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        cudnn.deterministic, cudnn.benchmark = True, False
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        memory.fill_uninitialized_memory = filled  # type: ignore[attr-defined]
