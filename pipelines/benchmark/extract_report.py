"""What a benchmark of extractions found, and its table."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipelines.reports.report import Report

CPU = "CPU"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a way reached.

    Attributes:
        name: The way.
        seconds: Median over the rounds, for all pictures.
        cpu_seconds: The same in time that this process had a processor, summed over its threads.
        images_per_second: Pictures per second.
        instructions_per_second: Pairs of (image, instruction) per second.
        ratio: Its speed over that of the first way.
        cpu_ratio: The same by CPU time, in which other work on the machine does not count.
        tflops_per_second: Operations asked for per second, in TFLOP/s.
        ceiling_share: The same as a share of a matrix product's speed.
        weights_bytes: What its models take.
        peak_bytes: The same with what it needs beside them; nothing where it cannot be told.
    """

    name: str
    seconds: float
    cpu_seconds: float
    images_per_second: float
    instructions_per_second: float
    ratio: float
    cpu_ratio: float
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
    if found.device == CPU:
        ratios = ", ".join(f"{way.cpu_ratio:.1f}x" for way in found.ways)
        lines.append(f"by CPU time, in which other work on the machine does not count: {ratios}")
    return Report(asdict(found), "\n".join(lines))
