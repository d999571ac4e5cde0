"""The time of an extraction, by a given, measured or estimated rate."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lens_cache.config.extract import ExtractConfig
from lens_cache.extraction.estimate import ASSUMED_UTILISATION, measure_flops_per_second
from lens_cache.store.paths import RUNS_FOLDER
from pipelines.extraction.dry_run import DryRun


@dataclass(frozen=True, kw_only=True)
class Duration:
    """The time that the missing images will take.

    Attributes:
        gpus: Number of GPUs, or of workers without a GPU.
        images_per_second: With all of them.
        hours: For the images still to do.
        source: The origin of the rate.
        why: The same in words.
    """

    gpus: int
    images_per_second: float
    hours: float
    source: Literal["given", "measured", "estimated"]
    why: str


def duration(
    root: Path, found: DryRun, config: ExtractConfig, *, gpus: int, told: float | None
) -> Duration:
    """Use the given rate; else the rate of this store's own shards; else count operations.

    Args:
        root: The store, which may have shards already.
        found: The dry run.
        config: The settings.
        gpus: Number of GPUs.
        told: Images per second of one GPU, if known.
    """
    source: Literal["given", "measured", "estimated"]
    if told is not None:
        rate, source, why = told * gpus, "given", f"{told:g} images/s for each, as given"
    elif (measured := _measured(root)) is not None:
        worker, shards = measured
        rate = worker * gpus / config.workers.gpus_per_worker
        source, why = "measured", f"a worker did {worker:.3g} images/s over {shards} shards here"
    else:
        speed, device = measure_flops_per_second(config.encoders.llava.dtype)
        per_image = found.missing_flops / max(1, found.missing_images)
        rate = gpus * speed * ASSUMED_UTILISATION / max(1.0, per_image)
        source = "estimated"
        why = (
            f"a matrix product runs at {speed / 1e12:.2f} TFLOP/s on this {device}, "
            f"{ASSUMED_UTILISATION:.0%} of it assumed; give a better rate with --rate"
        )
    return Duration(
        gpus=gpus,
        images_per_second=rate,
        hours=found.missing_images / rate / 3600,
        source=source,
        why=why,
    )


def _measured(root: Path) -> tuple[float, int] | None:
    """Return images per second of one worker over the store's logged shards, and their number."""
    images, seconds, shards = 0, 0.0, 0
    for log in (root / RUNS_FOLDER).glob("*/shards.jsonl"):
        for line in log.read_text(encoding="utf-8").splitlines():
            try:
                shard = json.loads(line)
            except ValueError:  # a killed driver's last line
                continue
            images, seconds, shards = images + shard["images"], seconds + shard["wall"], shards + 1
    return (images / seconds, shards) if images and seconds else None
