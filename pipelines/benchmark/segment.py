"""Measure how long a mask takes: the first of an image, further ones, batches and clicks."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch

from lens_cache.errors import ConfigError
from lens_cache.extraction.computation import device_kind
from lens_cache.features.transfer import on_gpu
from lens_cache.predictor import LensPredictor
from lens_cache.predictor.trained_head import TrainedHead
from lens_cache.training.run import Which
from pipelines.benchmark.models import CPU_SIZE, FULL_SIZE
from pipelines.benchmark.segment_report import SegmentBenchmark, StageSpeed
from pipelines.benchmark.segment_stages import STAGES
from pipelines.benchmark.segment_ways import BATCH, FIRST, FURTHER, WAYS, SegmentWork
from pipelines.benchmark.stand_in import stand_in_head
from pipelines.progress import Reporter

_THINGS = ("the bus", "a person", "all chairs", "the red thing", "what can hold tea", "the animal")
_WHERE = ("", " on the left", " in the middle of the picture", " behind the others")


def benchmark_segment(
    reporter: Reporter,
    *,
    device: str,
    run: Path | None = None,
    which: Which | None = None,
    model: str | None = None,
    overrides: Sequence[str] = (),
    full_size: bool = False,
    instructions: int = 8,
    rounds: int = 15,
) -> SegmentBenchmark:
    """Measure all ways in turns; without a head one with random weights.

    Args:
        reporter: Receives the progress.
        device: The device that runs the models.
        run: Folder of a training run.
        which: Checkpoint of the run.
        model: An exported head: a folder, a hub id or ``shapes``.
        overrides: Paths on this machine, e.g. ``encoders.root=/checkpoints``.
        full_size: Random weights with the sizes of LLaVA-1.5-7B and SAM ViT-H in bfloat16 instead
            of small models in float32.
        instructions: Instructions of a batch, and further masks of a round.
        rounds: Number of rounds.

    Raises:
        ConfigError: If options contradict each other, or full size is requested without a GPU.
        CheckpointError: If the head or its frozen models are missing or damaged.
        StoreMismatchError: If the frozen models are not those of the head.
    """
    heads = [name for name, given in (("run", run), ("model", model)) if given is not None]
    if len(heads) + full_size > 1:
        raise ConfigError("measuring masks: give one of --run, --model and --full-size")
    if which is not None and run is None:
        raise ConfigError("measuring masks: --checkpoint needs --run")
    if overrides and not heads:
        raise ConfigError("measuring masks: --set needs --run or --model")
    if full_size and not on_gpu(device):
        raise ConfigError(
            "measuring at full size: expected a GPU with 40 GB or more, found none; run it on a "
            "machine with one, or without --full-size"
        )
    load = os.getloadavg()[0]
    found: AbstractContextManager[TrainedHead]
    if run is not None:
        found = nullcontext(TrainedHead.of_run(run, which))
    elif model is not None:
        found = nullcontext(TrainedHead.from_pretrained(model))
    else:
        reporter.progress("benchmark", 0, 1 + rounds)  # the models are written first
        sizes = FULL_SIZE if full_size else CPU_SIZE
        found = stand_in_head(sizes, dtype="bfloat16" if full_size else "float32", device=device)
    with found as head:
        predictor = LensPredictor(head, overrides=tuple(overrides), device=device, cache_images=1)
        return measure(predictor, reporter, instructions=instructions, rounds=rounds, load=load)


def measure(
    predictor: LensPredictor,
    reporter: Reporter,
    *,
    instructions: int,
    rounds: int,
    load: float | None = None,
) -> SegmentBenchmark:
    """Measure a predictor; see ``benchmark_segment``.

    Args:
        predictor: It must keep only one image encoded.
        reporter: Receives the progress.
        instructions: Instructions of a batch, and further masks of a round.
        rounds: Number of rounds.
        load: Load of the machine before the models were loaded; that of now if None.
    """
    if load is None:
        load = os.getloadavg()[0]
    reporter.progress("benchmark", 0, 1 + rounds)
    work = SegmentWork(predictor, some_instructions(instructions))
    work.answer_alone()  # this also warms up the models
    for number in range(rounds):
        reporter.progress("benchmark", 1 + number, 1 + rounds)
        work.round(number)
    reporter.progress("benchmark", 1 + rounds, 1 + rounds)
    settings = predictor.head.extract_config().encoders
    return SegmentBenchmark(
        models=predictor.head.name,
        device=device_kind(predictor.device),
        llava_dtype=settings.llava.dtype,
        sam_dtype=settings.sam.dtype,
        head_precision=predictor.head.config.trainer.precision,
        threads=torch.get_num_threads(),
        cores=len(os.sched_getaffinity(0)),
        load=load,
        images=tuple((image.shape[1], image.shape[0]) for image in work.images),
        instructions=instructions,
        rounds=rounds,
        ways=tuple(work.speed(name) for name in WAYS),
        batch_ratio=statistics.median(work.ratios(FURTHER, BATCH)),
        stages=tuple(
            StageSpeed(
                name=name,
                seconds=tuple(work.stages[name]),
                mean=statistics.fmean(work.stages[name]),
                share=sum(work.stages[name]) / sum(work.staged),
            )
            for name in STAGES
        ),
        clock_ratio=statistics.median(
            staged / first for staged, (first,) in zip(work.staged, work.taken[FIRST], strict=True)
        ),
        largest_logit=max(float(np.abs(one.logits).max()) for one in work.alone.values()),
    )


def some_instructions(number: int) -> list[str]:
    """Return instructions of several lengths; from the 25th on they repeat."""
    texts = [thing + where for where in _WHERE for thing in _THINGS]
    return [texts[index % len(texts)] for index in range(number)]
