"""The stages of a mask, and a clock that times them inside a predictor."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lens_cache.features.transfer import on_gpu
from lens_cache.predictor import LensPredictor

IMAGE = "multimodal LLM, image"
QUESTION = "multimodal LLM, instruction"
SAM = "SAM's image encoder"
HEAD = "head, keypoints, descriptor"
DECODER = "SAM's mask decoder"
# Resizing, copies to and from the device, the mask at the size of the image, the score.
REST = "everything else"
STAGES = (IMAGE, QUESTION, SAM, HEAD, DECODER, REST)

Call = Callable[..., Any]


def synchronise(device: str) -> None:
    """Wait until a GPU has done all that was queued; a CPU has always done it."""
    if on_gpu(device):
        torch.cuda.synchronize(device)


def timed(call: Call, device: str) -> tuple[Any, float]:
    """Return what a call returns, and its seconds with all its work on the device."""
    synchronise(device)
    began = time.perf_counter()
    answer = call()
    synchronise(device)
    return answer, time.perf_counter() - began


@contextmanager
def stage_clock(predictor: LensPredictor) -> Iterator[dict[str, float]]:
    """Time the stages of all masks that a predictor makes inside the context.

    The device is synchronised before and after each stage, so the host cannot queue the work of the
    next one meanwhile: the sum can be larger than the time without the clock.

    Yields:
        Seconds of each stage but ``REST``; none of them runs inside another.
    """
    seconds = dict.fromkeys(STAGES[:-1], 0.0)

    def clocked(stage: str, call: Call) -> Call:
        def run(*args: Any, **options: Any) -> Any:
            answer, taken = timed(lambda: call(*args, **options), predictor.device)
            seconds[stage] += taken
            return answer

        return run

    models, lens = predictor.segmenter.frozen, predictor.segmenter.model
    read = clocked(IMAGE, models.read)
    asked: list[Any] = []

    def read_and_clock_questions(square: Any) -> Any:
        image = read(square)
        image.text_tokens = clocked(QUESTION, image.text_tokens)
        asked.append(image)
        return image

    replaced: list[tuple[Any, str, Call]] = [
        (models, "read", read_and_clock_questions),
        (models.sam, "encode", clocked(SAM, models.sam.encode)),
        (lens, "prompts", clocked(HEAD, lens.prompts)),
        (lens, "decode", clocked(DECODER, lens.decode)),
    ]
    # An attribute of the object hides the method of its class until it is deleted.
    for owner, name, call in replaced:
        setattr(owner, name, call)
    try:
        yield seconds
    finally:
        for owner, name, _ in replaced:
            delattr(owner, name)
        for image in asked:
            del image.text_tokens
