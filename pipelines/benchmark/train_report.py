"""The table of `benchmark train`."""

from __future__ import annotations

from dataclasses import asdict

from pipelines.benchmark.train import TrainingBenchmark
from pipelines.reports.report import Report


def report_train(found: TrainingBenchmark) -> Report:
    """Format the result as a table."""
    *loop, rows, ours = found.ways
    lines = [
        f"{found.models}, random weights, bfloat16 over float32, on {found.device} with "
        f"{found.threads} CPU threads; {found.parameters / 1e6:.0f} M trained parameters, "
        f"{found.trained_bytes / 1e9:.2f} GB with gradients and optimizer",
        f"{found.images} images x {found.instructions} instructions a step; median of "
        f"{found.rounds} rounds, ways in turns",
        "",
        f"{'':<12} {'samples/s':>10} {'ratio':>7} {'frozen':>9} {'a step':>9} {'800k draws':>12}",
    ]
    for way in found.ways:
        peak = "?" if way.peak_bytes is None else f"{way.peak_bytes / 1e9:.2f} GB"
        lines.append(
            f"{way.name:<12} {way.instructions_per_second:>10.3g} {way.ratio:>6.1f}x "
            f"{way.frozen_bytes / 1e9:>6.2f} GB {peak:>9} {way.hours:>10,.1f} h"
        )
    lines += [
        "",
        *[
            f"{way.name}: the whole MLLM for every (image, instruction) and SAM's encoder for "
            "every image at every draw, as the authors' code does it"
            for way in loop
        ],
        "cached rows: features from a store, one row per instruction",
        "lens-cache:  features from the store, image tokens once for all instructions of an image: "
        + ", ".join(f"{way.seconds / ours.seconds:.1f}x {way.name}" for way in (rows, *loop)),
        "frozen, a step: memory of the frozen models; memory of a step without them and the "
        "trained modules",
        f"800k draws: computed from the speed, for LISA's recipe; losses of the two cached ways "
        f"differ by {found.relative_error:.0e}",
    ]
    return Report(asdict(found), "\n".join(lines))
