"""Measure how much faster an extraction is than running everything for every instruction."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from lens_cache.encoders.benchmark_models import CPU_SIZE, FULL_SIZE, PairSizes, build_pair
from lens_cache.errors import ConfigError, ExtractionError
from lens_cache.estimate import measure_flops_per_second
from pipelines.benchmark.memory import extra_memory
from pipelines.benchmark.ways import Features, Way, Work
from pipelines.progress import Reporter
from pipelines.report import Report

# Largest ||ours - plain|| / ||plain||; beyond it the ways do not compute the same thing.
_TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-1}
_CEILING_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a way reached.

    Attributes:
        name: The way.
        seconds: Median over the rounds, for all pictures.
        images_per_second: Pictures per second.
        instructions_per_second: Pairs of (image, instruction) per second.
        ratio: Its speed over that of the first way.
        tflops_per_second: Operations asked for per second, in TFLOP/s.
        ceiling_share: The same as a share of a matrix product's speed.
        weights_bytes: What its models take.
        peak_bytes: The same with what it needs beside them; nothing where it cannot be told.
    """

    name: str
    seconds: float
    images_per_second: float
    instructions_per_second: float
    ratio: float
    tflops_per_second: float
    ceiling_share: float
    weights_bytes: int
    peak_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The measurements and what they were made with.

    Attributes:
        models: Which models; their weights are random.
        device: Where they ran.
        dtype: Their precision.
        threads: CPU threads.
        images: Pictures per round.
        instructions: Instructions per picture.
        images_per_batch: What went through a model at once: pairs, or pictures in the last way.
        rounds: Rounds, each of which ran every way once.
        ceiling_tflops_per_second: Speed of a matrix product, in TFLOP/s; the best of several.
        relative_error: How far the features of the last way are from those of the first.
        ways: The measurements.
    """

    models: str
    device: str
    dtype: str
    threads: int
    images: int
    instructions: int
    images_per_batch: int
    rounds: int
    ceiling_tflops_per_second: float
    relative_error: dict[str, float]
    ways: tuple[Measurement, ...]


def benchmark_extract(
    reporter: Reporter,
    *,
    full_size: bool,
    device: str,
    instructions: int = 8,
    images: int | None = None,
    images_per_batch: int | None = None,
    rounds: int = 3,
) -> Benchmark:
    """Run the three ways in turns.

    Args:
        reporter: Where progress goes.
        full_size: LLaVA-1.5-7B and SAM ViT-H in bfloat16 instead of small models in float32.
        device: Where they run.
        instructions: Instructions per picture.
        images: Pictures per round.
        images_per_batch: What goes through a model at once.
        rounds: Rounds.

    Raises:
        ConfigError: If the full size is asked for without a GPU.
        ExtractionError: If the ways do not compute the same features.
    """
    on_gpu = torch.device(device).type == "cuda"
    if full_size and not on_gpu:
        raise ConfigError(
            "measuring at full size: expected a GPU with 40 GB or more, found none; run it where "
            "there is one, or without --full-size"
        )
    sizes, dtype = (FULL_SIZE, "bfloat16") if full_size else (CPU_SIZE, "float32")
    return measure(
        sizes,
        reporter,
        dtype=dtype,
        device=device,
        instructions=instructions,
        images=images or (16 if on_gpu else 2),
        batch=images_per_batch or (4 if on_gpu else 1),
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
) -> Benchmark:
    """Measure a pair of models of any size; see ``benchmark_extract``."""
    steps = 1 + rounds
    reporter.progress("benchmark", 0, steps)
    pair = build_pair(sizes, getattr(torch, dtype), device)
    ways = Work(
        pair, sizes, images=images, instructions=instructions, batch=min(batch, images)
    ).ways()
    found: list[Features] = []
    # The warm-up, too.
    extra = [extra_memory(partial(_keep, way, found), device) for way in ways]
    errors = {name: _distance(found[-1][name], found[0][name]) for name in found[0]}
    if max(errors.values()) > _TOLERANCE[dtype]:
        raise ExtractionError(
            f"measuring an extraction: the ways differ by {max(errors.values()):.1e}, more than "
            f"{_TOLERANCE[dtype]:.0e}; this is a defect, please report it"
        )
    seconds: list[list[float]] = [[] for _ in ways]
    ceilings = []
    for number in range(rounds):
        reporter.progress("benchmark", 1 + number, steps)
        ceilings.append(measure_flops_per_second(dtype, _CEILING_SECONDS, device)[0])
        for turn in range(len(ways)):
            way = (number + turn) % len(ways)
            seconds[way].append(_timed(ways[way]))
    reporter.progress("benchmark", steps, steps)
    medians = [statistics.median(taken) for taken in seconds]
    return Benchmark(
        models=sizes.name,
        device=_name(device),
        dtype=dtype,
        threads=torch.get_num_threads(),
        images=images,
        instructions=instructions,
        images_per_batch=min(batch, images),
        rounds=rounds,
        ceiling_tflops_per_second=max(ceilings) / 1e12,
        relative_error=errors,
        ways=tuple(
            Measurement(
                name=way.name,
                seconds=taken,
                images_per_second=images / taken,
                instructions_per_second=images * instructions / taken,
                ratio=medians[0] / taken,
                tflops_per_second=way.flops / taken / 1e12,
                ceiling_share=way.flops / taken / max(ceilings),
                weights_bytes=_weights(way.modules),
                peak_bytes=None if more is None else _weights(way.modules) + more,
            )
            for way, taken, more in zip(ways, medians, extra, strict=True)
        ),
    )


def report(found: Benchmark) -> Report:
    """Report a benchmark as a table."""
    lines = [
        f"{found.models}, random weights, {found.dtype}, on {found.device} with {found.threads} "
        "CPU threads",
        f"{found.images} images x {found.instructions} instructions, batches of "
        f"{found.images_per_batch}; median of {found.rounds} rounds, ways in turns",
        "",
        f"{'':<16} {'images/s':>9} {'instr./s':>9} {'ratio':>7} {'TFLOP/s':>8} {'of ceiling':>10} "
        f"{'weights':>8} {'peak':>8}",
    ]
    for way in found.ways:
        peak = "?" if way.peak_bytes is None else f"{way.peak_bytes / 1e9:.2f} GB"
        lines.append(
            f"{way.name:<16} {way.images_per_second:>9.3g} {way.instructions_per_second:>9.3g} "
            f"{way.ratio:>6.1f}x {way.tflops_per_second:>8.3g} {way.ceiling_share:>10.0%} "
            f"{way.weights_bytes / 1e9:>5.2f} GB {peak:>8}"
        )
    error = max(found.relative_error.values())
    lines += [
        "",
        "per instruction: the whole MLLM with all hidden states, and SAM, for every (image, "
        "instruction), as the authors' code does it",
        "early exit:      the same, but the MLLM ends at the tapped layer",
        "lens-cache:      the extraction's engine, once an image; results on the host",
        f"ceiling:         a matrix product runs at {found.ceiling_tflops_per_second:.3g} TFLOP/s; "
        "padding and masked attention count as no work",
        f"features of lens-cache and of the first way differ by {error:.0e} (relative)",
    ]
    return Report(asdict(found), "\n".join(lines))


def _keep(way: Way, found: list[Features]) -> None:
    found.append(way.run())


def _timed(way: Way) -> float:
    """Return the seconds of a run; its features come to the host, so the device has ended."""
    began = time.perf_counter()
    way.run()
    return time.perf_counter() - began


def _weights(modules: Sequence[torch.nn.Module]) -> int:
    tensors = {id(t): t for m in modules for t in [*m.parameters(), *m.buffers()]}
    return sum(tensor.nbytes for tensor in tensors.values())


def _distance(ours: Tensor, plain: Tensor) -> float:
    return float((ours.double() - plain.double()).norm() / plain.double().norm())


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "CPU"
