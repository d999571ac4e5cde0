"""Sections on phase 1: the speed of the engine, of a compiled engine, and its agreement."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from lens_cache.extraction.estimate import measure_flops_per_second
from lens_cache.extraction.feature_models import Picture, Texts
from pipelines.benchmark import extract
from pipelines.benchmark.engine import EngineRun, engine_flops, random_pictures, random_texts
from pipelines.benchmark.gpu.device import (
    attention_shapes,
    finish,
    forget,
    longest_kernels,
    peak_gb,
    synchronisations,
    timed,
    used_gb,
)
from pipelines.benchmark.gpu.findings import Findings, Value
from pipelines.benchmark.gpu.scale import Scale
from pipelines.benchmark.models import build_pair
from pipelines.progress import Silent

_QUESTIONS = 8
_ROUNDS = 3
_BATCH = 4
_MIXED_BATCHES = 40


class Models:
    """The engine's models without the layers that it does not run, and pictures for them."""

    def __init__(self, scale: Scale, device: str) -> None:
        pair = build_pair(scale.pair, getattr(torch, scale.dtype), device)
        self.llava, self.sam = pair.llava, pair.sam
        configs, self.device = pair.configs, device
        del pair
        forget(device)
        few = random_pictures(self.llava, scale.pair.sam.image_size, max(scale.batches))
        self.pictures = list(islice(cycle(few), scale.images))
        self.texts = random_texts(self.llava, [_QUESTIONS] * scale.images)
        flops = engine_flops(self.llava, configs, scale.pair.sam, self.texts)
        self.flops_per_image = flops / scale.images
        self.ceiling = measure_flops_per_second(scale.dtype, 0.5, device)[0]

    def run(self, batch: int) -> EngineRun:
        """Return a run over all pictures."""
        return EngineRun(self.llava, self.sam, self.pictures, self.texts, batch)

    def row(self, batch: int) -> dict[str, Value]:
        """Measure a batch size."""
        forget(self.device)
        self.run(batch).run()  # warms up
        runs = [self.run(batch) for _ in range(_ROUNDS)]
        taken = [timed(run.run) for run in runs]
        count, seconds = len(self.pictures), statistics.median(taken)
        rate = count / seconds

        def each(stage: str) -> float:
            """Return the milliseconds of a stage for each image."""
            return 1000 * statistics.median(run.seconds[stage] for run in runs) / count

        one = self.run(batch)
        queue = partial(one.launch, self.pictures[:batch], self.texts[:batch])
        waits = synchronisations(queue, self.device)
        finish(self.device)
        return {
            "images per batch": batch,
            "images/s": rate,
            "TFLOP/s": rate * self.flops_per_image / 1e12,
            "of a matrix product": f"{rate * self.flops_per_image / self.ceiling:.0%}",
            "LLaVA, ms an image": each("llava"),
            "SAM, ms an image": each("sam"),
            "launch, ms an image": each("launch"),
            "synchronisations to queue a batch": waits,
            "peak, GB": peak_gb(self.device),
            "in use, GB": used_gb(self.device),
        }


def extraction(scale: Scale, device: str, scratch: Path, found: Findings) -> None:
    """Measure the engine at several batch sizes and with many lengths of questions."""
    models = Models(scale, device)
    for batch in scale.batches:
        found.row(**models.row(batch))
    found.note(
        f"{scale.pair.name}, random weights, {scale.dtype}, {_QUESTIONS} questions of 20 to 40 "
        f"tokens an image; a matrix product runs at {models.ceiling / 1e12:.4g} TFLOP/s, an image "
        f"is {models.flops_per_image / 1e12:.3g} TFLOP"
    )
    batch = min(_BATCH, max(scale.batches))
    found.note(_many_lengths(models, batch))
    run, first = models.run(batch), slice(0, batch)
    one_batch = partial(_one_batch, run, models.pictures[first], models.texts[first])
    for sentence in longest_kernels(one_batch, device):
        found.note(sentence)


def _one_batch(run: EngineRun, pictures: Sequence[Picture], texts: Sequence[Texts]) -> None:
    run.collect(run.launch(pictures, texts))


def _many_lengths(models: Models, batch: int) -> str:
    """Run batches with many numbers of questions; return how many shapes attention has."""
    rng = np.random.default_rng(2)
    counts = rng.integers(1, 3 * _QUESTIONS // 2 + 1, _MIXED_BATCHES * batch).tolist()
    texts = random_texts(models.llava, counts)
    pictures = models.pictures[:batch]
    run, taken = models.run(batch), []
    with attention_shapes() as shapes:
        for start in range(0, len(texts), batch):
            asked = texts[start : start + batch]
            taken.append(timed(partial(_one_batch, run, pictures, asked)))
    middle = statistics.median(taken)
    slow = sum(seconds > 2 * middle for seconds in taken)
    return (
        f"{_MIXED_BATCHES} batches of {batch} images with 1 to {3 * _QUESTIONS // 2} questions: "
        f"attention has {len(shapes)} distinct shapes; a batch alone takes {1000 * middle:.3g} ms "
        f"(median), the slowest {1000 * max(taken):.3g} ms, {slow} more than twice the median"
    )


def compiled(scale: Scale, device: str, scratch: Path, found: Findings) -> None:
    """Measure the engine with and without ``workers.compile``."""
    models = Models(scale, device)
    batch = min(_BATCH, max(scale.batches))
    found.row(models="eager", **models.row(batch))
    models.llava.compile()
    models.sam.compile()
    seconds = timed(lambda: models.run(batch).run())
    found.row(models="compiled", **models.row(batch))
    found.note(f"the first pass over {scale.images} images compiles; it took {seconds:.0f} s")


def agreement(scale: Scale, device: str, scratch: Path, found: Findings) -> None:
    """Compare the engine's features with the plain forward of every (image, instruction)."""
    images = min(_BATCH, scale.images)
    result = extract.measure(
        scale.pair,
        Silent(),
        dtype=scale.dtype,
        device=device,
        instructions=_QUESTIONS,
        images=images,
        batch=images,
        rounds=1,
    )
    for way in result.ways:
        values: dict[str, Value] = {
            "way": way.name,
            "images/s": way.images_per_second,
            "ratio": way.ratio,
            "of a matrix product": f"{way.ceiling_share:.0%}",
            "peak, GB": None if way.peak_bytes is None else way.peak_bytes / 1e9,
        }
        found.row(**values)
    for name, error in result.relative_error.items():
        found.note(
            f"{name}: lens-cache and the plain forward differ by {error:.1e} (norm of the "
            "difference over norm)"
        )
