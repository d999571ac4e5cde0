"""Measure how much faster an extraction is than running everything for every instruction."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lens_cache.errors import ConfigError, ExtractionError
from lens_cache.extraction.computation import device_kind
from lens_cache.extraction.estimate import measure_flops_per_second
from lens_cache.features.transfer import on_gpu
from pipelines.benchmark.engine import Features
from pipelines.benchmark.extract_report import ExtractionBenchmark, ExtractionSpeed
from pipelines.benchmark.extract_ways import Way, Work
from pipelines.benchmark.memory import extra_memory
from pipelines.benchmark.models import CPU_SIZE, FULL_SIZE, PairSizes, build_pair
from pipelines.progress import Reporter

# Largest ||ours - plain|| / ||plain|| at which the ways compute the same features.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1}
_CEILING_SECONDS = 0.5


def benchmark_extract(
    reporter: Reporter,
    *,
    full_size: bool,
    device: str,
    instructions: int = 8,
    images: int | None = None,
    images_per_batch: int | None = None,
    rounds: int = 3,
) -> ExtractionBenchmark:
    """Measure the three ways in turns.

    Args:
        reporter: Receives the progress.
        full_size: LLaVA-1.5-7B and SAM ViT-H in bfloat16 instead of small models in float32.
        device: The device that runs them.
        instructions: Instructions per image.
        images: Images per round.
        images_per_batch: Batch size.
        rounds: Number of rounds.

    Raises:
        ConfigError: If full size is requested without a GPU.
        ExtractionError: If the ways do not compute the same features.
    """
    gpu = on_gpu(device)
    if full_size and not gpu:
        raise ConfigError(
            "measuring at full size: expected a GPU with 40 GB or more, found none; run it on a "
            "machine with one, or without --full-size"
        )
    sizes, dtype = (FULL_SIZE, "bfloat16") if full_size else (CPU_SIZE, "float32")
    return measure(
        sizes,
        reporter,
        dtype=dtype,
        device=device,
        instructions=instructions,
        images=images or (16 if gpu else 2),
        batch=images_per_batch or (4 if gpu else 1),
        rounds=rounds,
    )


def measure(
    sizes: PairSizes,
    reporter: Reporter,
    *,
    dtype: str,
    device: str,
    instructions: int,
    images: int,
    batch: int,
    rounds: int,
) -> ExtractionBenchmark:
    """Measure a pair of models of any size; see ``benchmark_extract``."""
    steps = 1 + rounds
    reporter.progress("benchmark", 0, steps)
    pair = build_pair(sizes, getattr(torch, dtype), device)
    ways = Work(
        pair, sizes, images=images, instructions=instructions, batch=min(batch, images)
    ).ways()
    found: list[Features] = []
    # These runs also warm up the models.
    extra = [extra_memory(partial(_keep, way, found), device) for way in ways]
    errors = {name: _distance(found[-1][name], found[0][name]) for name in found[0]}
    if max(errors.values()) > _TOLERANCE[dtype]:
        raise ExtractionError(
            f"measuring an extraction: the ways differ by {max(errors.values()):.1e}, more than "
            f"{_TOLERANCE[dtype]:.0e}; this is a defect, please report it"
        )
    timings: list[list[tuple[float, float]]] = [[] for _ in ways]
    ceilings = []
    for number in range(rounds):
        reporter.progress("benchmark", 1 + number, steps)
        ceilings.append(measure_flops_per_second(dtype, _CEILING_SECONDS, device)[0])
        for turn in range(len(ways)):
            way = (number + turn) % len(ways)
            timings[way].append(_timed(ways[way]))
    reporter.progress("benchmark", steps, steps)
    medians, on_cpu = (
        [statistics.median(timing[clock] for timing in taken) for taken in timings]
        for clock in (0, 1)
    )
    return ExtractionBenchmark(
        models=sizes.name,
        device=device_kind(device),
        dtype=dtype,
        threads=torch.get_num_threads(),
        images=images,
        instructions=instructions,
        images_per_batch=min(batch, images),
        rounds=rounds,
        ceiling_tflops_per_second=max(ceilings) / 1e12,
        relative_error=errors,
        ways=tuple(
            ExtractionSpeed(
                name=way.name,
                seconds=taken,
                cpu_seconds=busy,
                images_per_second=images / taken,
                instructions_per_second=images * instructions / taken,
                ratio=medians[0] / taken,
                cpu_ratio=on_cpu[0] / busy,
                tflops_per_second=way.flops / taken / 1e12,
                ceiling_share=way.flops / taken / max(ceilings),
                weights_bytes=weights_bytes(way.modules),
                peak_bytes=None if more is None else weights_bytes(way.modules) + more,
            )
            for way, taken, busy, more in zip(ways, medians, on_cpu, extra, strict=True)
        ),
    )


def _keep(way: Way, found: list[Features]) -> None:
    found.append(way.run())


def _timed(way: Way) -> tuple[float, float]:
    """Return the wall-clock and CPU seconds of a run.

    The features end in host memory, so the device has finished.
    """
    began, cpu = time.perf_counter(), time.process_time()
    way.run()
    return time.perf_counter() - began, time.process_time() - cpu


def weights_bytes(modules: Sequence[torch.nn.Module]) -> int:
    """Return the bytes of the weights of some modules; shared weights count once."""
    tensors = {id(t): t for m in modules for t in [*m.parameters(), *m.buffers()]}
    return sum(tensor.nbytes for tensor in tensors.values())


def _distance(ours: Tensor, plain: Tensor) -> float:
    return float((ours.double() - plain.double()).norm() / plain.double().norm())
