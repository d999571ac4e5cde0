"""The result of `benchmark extract` and its table."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lens_cache.extraction.computation import device_kind
from pipelines.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class ExtractionSpeed:
    """The result of one way.

    Attributes:
        name: The name of the way.
        seconds: Median over the rounds, for all images.
        cpu_seconds: The same in CPU time, summed over the threads of this process.
        images_per_second: Images per second.
        instructions_per_second: Pairs of (image, instruction) per second.
        ratio: Its speed over that of the first way.
        cpu_ratio: The same in CPU time, which does not count other work on the machine.
        tflops_per_second: Floating-point operations per second, in TFLOP/s.
        ceiling_share: The same as a fraction of the speed of a matrix product.
        weights_bytes: Bytes of the weights of its models.
        peak_bytes: Peak memory, weights included; None where it cannot be measured.
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
class ExtractionBenchmark:
    """The results of all ways and the conditions of the measurement.

    Attributes:
        models: Names of the models; their weights are random.
        device: The device that ran them.
        dtype: Precision of the models.
        threads: CPU threads.
        images: Images per round.
        instructions: Instructions per image.
        images_per_batch: Batch size: pairs of (image, instruction); in the last way images.
        rounds: Number of rounds; each ran every way once.
        ceiling_tflops_per_second: Speed of a matrix product, in TFLOP/s; the best of several runs.
        relative_error: Distance between the features of the last way and the first.
        ways: The results.
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
    ways: tuple[ExtractionSpeed, ...]


def report_extract(found: ExtractionBenchmark) -> Report:
    """Format the result as a table."""
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
        "early exit:      the same, with the MLLM cut off at the tapped layer",
        "lens-cache:      the extraction's engine, once per image; results in host memory",
        f"ceiling:         a matrix product runs at {found.ceiling_tflops_per_second:.3g} TFLOP/s; "
        "padding and masked attention are not counted",
        f"features of lens-cache and of the first way differ by {error:.0e} (relative)",
    ]
    if found.device == device_kind("cpu"):
        ratios = ", ".join(f"{way.cpu_ratio:.1f}x" for way in found.ways)
        lines.append(f"ratios by CPU time, without other work on the machine: {ratios}")
    return Report(asdict(found), "\n".join(lines))
