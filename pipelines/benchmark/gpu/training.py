"""Sections on phase 2: steps of several sizes, and the three ways to train."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lens_cache.features.transfer import on_gpu
from lens_cache.store.store import Store
from lens_cache.training.data import Batch
from pipelines.benchmark import train
from pipelines.benchmark.gpu.device import (
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
from pipelines.benchmark.random_features import RandomFeatures
from pipelines.benchmark.random_store import write_store
from pipelines.benchmark.train_ways import Trainee, TrainingWork
from pipelines.progress import Silent

_QUESTIONS = 3
_STEPS, _ROUNDS = 5, 3


def training(scale: Scale, device: str, scratch: Path, found: Findings) -> None:
    """Measure optimizer steps of several sizes, fed from a store, and the kernels of the last."""
    trainee = Trainee(scale.pair, train.LOSS, device)
    features = RandomFeatures(train.record_sizes(scale.pair, _QUESTIONS), scale.records)
    write_store(scratch / "store", features, "zarr", shard_size=32)
    store = Store(scratch / "store")
    for images, questions in scale.steps:
        work = TrainingWork(
            store,
            None,
            train.LOSS,
            images=images,
            instructions=questions,
            workers=4 if on_gpu(device) else 0,
            side=scale.pair.sam.image_size,
        )
        batches = work.ways()[-1].batches()
        found.row(**_row(trainee, batches, images, questions, device))
    batch = next(batches)
    for sentence in longest_kernels(partial(trainee.step, batch), device):
        found.note(sentence)
    weights = sum(weight.numel() for weight in trainee.model.parameters() if weight.requires_grad)
    found.note(
        f"head of {scale.pair.name}, {weights / 1e6:.0f} M trained parameters, bfloat16 over "
        "float32, features from a store through loader processes, one optimizer step a batch"
    )


def _row(
    trainee: Trainee, batches: Iterator[Batch], images: int, questions: int, device: str
) -> dict[str, Value]:
    """Measure steps of one size."""

    def steps() -> None:
        for _ in range(_STEPS):
            trainee.step(next(batches))
        finish(device)

    forget(device)
    steps()  # warms up
    seconds = statistics.median(timed(steps) for _ in range(_ROUNDS)) / _STEPS
    batch = next(batches)

    def same_batch() -> None:
        for _ in range(_STEPS):
            trainee.step(batch)
        finish(device)

    alone = timed(same_batch) / _STEPS
    waits = synchronisations(partial(trainee.step, batch), device)
    finish(device)
    return {
        "images x questions": f"{images} x {questions}",
        "ms a step": 1000 * seconds,
        "ms without the loader": 1000 * alone,
        "images/s": images / seconds,
        "samples/s": images * questions / seconds,
        "LISA's 800,000 images, h": train.LISA_DRAWS * seconds / images / 3600,
        "synchronisations a step": waits,
        "peak, GB": peak_gb(device),
        "in use, GB": used_gb(device),
    }


def three_ways(scale: Scale, device: str, scratch: Path, found: Findings) -> None:
    """Compare training from a store with running the frozen models in every step."""
    images, questions = (4, 8) if on_gpu(device) else (1, 2)
    result = train.measure(
        scale.pair,
        Silent(),
        device=device,
        instructions=questions,
        images=images,
        rounds=2,
        steps=4 if on_gpu(device) else 1,
        workers=4 if on_gpu(device) else 0,
    )
    for way in result.ways:
        values: dict[str, Value] = {
            "way": way.name,
            "samples/s": way.instructions_per_second,
            "ratio": way.ratio,
            "frozen models, GB": way.frozen_bytes / 1e9,
            "a step, GB": None if way.peak_bytes is None else way.peak_bytes / 1e9,
            "LISA's 800,000 images, h": way.hours,
        }
        found.row(**values)
    found.note(
        f"{images} images x {questions} questions a step; the losses of the two cached ways differ "
        f"by {result.relative_error:.1e}"
    )
