"""Measure how much faster training is from a cache, and grouped by image."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from lens_cache.config.train import LossConfig
from lens_cache.errors import ConfigError, TrainingError
from lens_cache.extraction.computation import device_kind
from lens_cache.features.transfer import on_gpu
from lens_cache.store.store import Store
from lens_cache.training.data import Batch
from pipelines.benchmark.extract import weights_bytes
from pipelines.benchmark.memory import extra_memory
from pipelines.benchmark.models import FULL_SIZE, TRAIN_CPU_SIZE, PairSizes, build_pair
from pipelines.benchmark.random_features import RandomFeatures, RecordSizes
from pipelines.benchmark.random_store import write_store
from pipelines.benchmark.train_ways import Trainee, TrainingWay, TrainingWork
from pipelines.progress import Reporter

# LISA's recipe: 5,000 steps of 160 images.
LISA_DRAWS = 800_000
_TOLERANCE = 2e-2  # two ways to compute a loss in bfloat16
LOSS = LossConfig(attention_size=128, mask_size=256)


@dataclass(frozen=True, kw_only=True)
class TrainingSpeed:
    """The result of one way.

    Attributes:
        name: The name of the way.
        seconds: Median over the rounds, for one step.
        images_per_second: Images per second.
        instructions_per_second: Samples per second: pairs of (image, instruction).
        ratio: Its speed over that of the first way.
        frozen_bytes: Bytes of its frozen models.
        peak_bytes: Memory of a step without the frozen models, the trained modules and their
            optimizer; None where it cannot be measured.
        hours: Hours of LISA's 800,000 draws of an image, computed from this speed.
    """

    name: str
    seconds: float
    images_per_second: float
    instructions_per_second: float
    ratio: float
    frozen_bytes: int
    peak_bytes: int | None
    hours: float


@dataclass(frozen=True, kw_only=True)
class TrainingBenchmark:
    """The results of all ways and the conditions of the measurement.

    Attributes:
        models: Names of the models; their weights are random.
        device: The device that ran them.
        threads: CPU threads.
        images: Images of a step.
        instructions: Instructions of an image.
        rounds: Number of rounds; each ran every way.
        steps: Steps of a way in a round.
        parameters: Number of trained parameters.
        trained_bytes: Their bytes with gradients and optimizer states.
        relative_error: Relative difference between the losses of the two cached ways.
        ways: The results.
    """

    models: str
    device: str
    threads: int
    images: int
    instructions: int
    rounds: int
    steps: int
    parameters: int
    trained_bytes: int
    relative_error: float
    ways: tuple[TrainingSpeed, ...]


def benchmark_train(
    reporter: Reporter,
    *,
    full_size: bool,
    device: str,
    cached: bool = False,
    instructions: int = 8,
    images: int = 4,
    rounds: int = 3,
) -> TrainingBenchmark:
    """Measure the ways in turns.

    Args:
        reporter: Receives the progress.
        full_size: LLaVA-1.5-7B and SAM ViT-H in bfloat16 instead of small models.
        device: The device that runs them.
        cached: Measure only the two ways that read a store; they need no frozen models.
        instructions: Instructions of an image.
        images: Images of a step.
        rounds: Number of rounds.

    Raises:
        ConfigError: If full-size frozen models are requested without a GPU.
        TrainingError: If the cached ways do not compute the same loss.
    """
    gpu = on_gpu(device)
    if full_size and not gpu and not cached:
        raise ConfigError(
            "measuring at full size: expected a GPU with 80 GB or more, found none; run it on a "
            "machine with one, with --cached (a CPU and 24 GB do), or without --full-size"
        )
    return measure(
        FULL_SIZE if full_size else TRAIN_CPU_SIZE,
        reporter,
        device=device,
        cached=cached,
        instructions=instructions,
        images=images,
        rounds=rounds,
        steps=8 if gpu else 1,
        workers=4 if gpu else 0,
    )


def measure(
    sizes: PairSizes,
    reporter: Reporter,
    *,
    device: str,
    instructions: int,
    images: int,
    rounds: int,
    steps: int,
    workers: int,
    cached: bool = False,
) -> TrainingBenchmark:
    """Measure the ways at any size; see ``benchmark_train``."""
    pair = None if cached else build_pair(sizes, torch.bfloat16, device)
    trainee = Trainee(sizes, LOSS, device)
    features = RandomFeatures(record_sizes(sizes, instructions), 4 * images)
    with tempfile.TemporaryDirectory() as scratch:
        write_store(Path(scratch), features, "zarr", shard_size=features.images)
        work = TrainingWork(
            Store(Path(scratch)),
            pair,
            LOSS,
            images=images,
            instructions=instructions,
            workers=workers,
            side=sizes.sam.image_size,
        )
        ways = work.ways()
        error = _loss_difference(trainee, *ways[-2:])
        streams = [way.batches() for way in ways]
        extra: list[int | None] = []
        for stream in streams:  # the first step warms up, the second measures memory
            trainee.step(next(stream))
            extra.append(extra_memory(partial(_run, trainee, stream, 1), device))
        taken: list[list[float]] = [[] for _ in ways]
        for turn in range(rounds):
            reporter.progress("benchmark", turn, rounds)
            for seconds, stream in zip(taken, streams, strict=True):
                seconds.append(_timed(trainee, stream, steps) / steps)
        reporter.progress("benchmark", rounds, rounds)
    medians = [statistics.median(seconds) for seconds in taken]
    trained = [weight for weight in trainee.model.parameters() if weight.requires_grad]
    return TrainingBenchmark(
        models=sizes.name,
        device=device_kind(device),
        threads=torch.get_num_threads(),
        images=images,
        instructions=instructions,
        rounds=rounds,
        steps=steps,
        parameters=sum(weight.numel() for weight in trained),
        trained_bytes=4 * sum(weight.nbytes for weight in trained),
        relative_error=error,
        ways=tuple(
            TrainingSpeed(
                name=way.name,
                seconds=seconds,
                images_per_second=images / seconds,
                instructions_per_second=images * instructions / seconds,
                ratio=medians[0] / seconds,
                frozen_bytes=weights_bytes(way.modules),
                peak_bytes=more,
                hours=LISA_DRAWS * seconds / images / 3600,
            )
            for way, seconds, more in zip(ways, medians, extra, strict=True)
        ),
    )


def record_sizes(sizes: PairSizes, instructions: int) -> RecordSizes:
    """Return the shapes of the features of an image with some instructions."""
    return RecordSizes(
        name=sizes.name,
        image_tokens=(sizes.llava.image_side // sizes.llava.patch_size) ** 2,
        hidden_size=sizes.llava.width,
        channels=sizes.sam.transformer_dim,
        side=sizes.sam.embedding_size,
        questions=instructions,
    )


def _loss_difference(trainee: Trainee, one: TrainingWay, other: TrainingWay) -> float:
    """Return how far two ways' losses of the first batch are apart, without dropout."""
    trainee.model.eval()
    with torch.no_grad():
        a, b = (float(trainee.loss(next(way.batches()))) for way in (one, other))
    trainee.model.train()
    error = abs(a - b) / abs(a)
    if error > _TOLERANCE:
        raise TrainingError(
            f"measuring a training: the losses of {one.name} and {other.name} are {a:g} and {b:g}, "
            f"apart by {error:.0e}, more than {_TOLERANCE:.0e}; this is a defect, please report it"
        )
    return error


def _run(trainee: Trainee, batches: Iterator[Batch], steps: int) -> None:
    for batch in islice(batches, steps):
        trainee.step(batch)
    if on_gpu(trainee.device):
        torch.cuda.synchronize()


def _timed(trainee: Trainee, batches: Iterator[Batch], steps: int) -> float:
    began = time.perf_counter()
    _run(trainee, batches, steps)
    return time.perf_counter() - began
