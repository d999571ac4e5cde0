"""The ways to ask a predictor for masks, with the time that each takes.

- ``first mask``: one instruction about an image that is not encoded yet;
- ``further mask``: one instruction about the same image, which stays encoded;
- ``batch``: all instructions about the same image in one call;
- ``click``: one click on the mask of the first instruction.

Images are decoded beforehand; masks end in host memory.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

import numpy as np
from numpy.typing import NDArray

from lens_cache.assets import PHOTOGRAPHS
from lens_cache.images.inputs import rgb_pixels
from lens_cache.predictor import LensPredictor, Segmentation
from pipelines.benchmark.segment_report import MaskSpeed
from pipelines.benchmark.segment_stages import REST, STAGES, stage_clock, timed

# Of one size. A round takes two of the three, so every image is new when its turn comes again.
PICTURES = ("000000000089.jpg", "000000000450.jpg", "000000000508.jpg")

FIRST, FURTHER, BATCH, CLICK = "first mask", "further mask", "batch", "click"
WAYS = {
    FIRST: "one instruction about an image that is not encoded yet",
    FURTHER: "one instruction about the same image, which stays encoded",
    BATCH: "all instructions about the same image in one call",
    CLICK: "one click on the last mask; it runs the instruction again",
}


@dataclass
class Difference:
    """How much the masks of a way differ from those of single instructions; see ``MaskSpeed``."""

    answers: int = 0
    logits: float = 0.0
    pixels: int = 0

    def add(self, found: Segmentation, alone: Segmentation) -> None:
        """Compare a mask."""
        self.answers += 1
        self.logits = max(self.logits, float(np.abs(found.logits - alone.logits).max()))
        self.pixels += int((found.mask != alone.mask).sum())


class SegmentWork:
    """Images, instructions, and the ways to ask for masks.

    Attributes:
        images: RGB, uint8, shapes (H, W, 3).
        alone: The mask of each instruction alone, by (image, instruction, clicked).
        taken: Seconds of the calls of each way in each round.
        stages: Seconds of each stage of a first mask in each round.
        staged: Seconds of those first masks.
        differences: How much the masks of each way differ from ``alone``.
    """

    def __init__(self, predictor: LensPredictor, texts: Sequence[str]) -> None:
        """Read the images.

        Args:
            predictor: It must keep only one image encoded.
            texts: The instructions, at least one.
        """
        self._predictor, self._texts = predictor, list(texts)
        folder = PHOTOGRAPHS / "train2017"
        self.images: list[NDArray[np.uint8]] = [rgb_pixels(folder / name) for name in PICTURES]
        self._turns = cycle(range(len(self.images)))
        self.alone: dict[tuple[int, str, bool], Segmentation] = {}
        self.taken: dict[str, list[list[float]]] = {name: [] for name in WAYS}
        self.stages: dict[str, list[float]] = {name: [] for name in STAGES}
        self.staged: list[float] = []
        self.differences = {name: Difference() for name in WAYS}

    def answer_alone(self) -> None:
        """Ask every instruction about every image alone, and click once; no time is taken."""
        for number in range(len(self.images)):
            for text in self._texts:
                self.alone[number, text, False] = self._ask(number, text)
            self._ask(number, self._texts[0])
            self.alone[number, self._texts[0], True] = self._click(number)
            self._predictor(self.images[number], self._texts)

    def round(self, number: int) -> None:
        """Run every way once; which one on an encoded image begins depends on the round.

        Args:
            number: Number of the round.
        """
        image, first = next(self._turns), self._texts[0]
        self.taken[FIRST].append([self._timed(FIRST, image, partial(self._ask, image, first))])
        ways = (self._further, self._batch, self._corrected)
        for turn in range(len(ways)):
            ways[(number + turn) % len(ways)](image)
        self._staged(next(self._turns))

    def ratios(self, slower: str, faster: str) -> list[float]:
        """Return the masks per second of one way over those of another, in each round."""
        return [
            self._per_mask(slower, one) / self._per_mask(faster, other)
            for one, other in zip(self.taken[slower], self.taken[faster], strict=True)
        ]

    def speed(self, name: str) -> MaskSpeed:
        """Return the result of a way."""
        seconds = tuple(taken for calls in self.taken[name] for taken in calls)
        masks, differs = self._masks(name), self.differences[name]
        median = statistics.median(seconds) / masks
        return MaskSpeed(
            name=name,
            how=WAYS[name],
            masks=masks,
            seconds=seconds,
            median=median,
            fastest=min(seconds) / masks,
            slowest=max(seconds) / masks,
            masks_per_second=1 / median,
            ratio=statistics.median(self.ratios(FIRST, name)),
            answers=differs.answers,
            logit_difference=differs.logits,
            differing_pixels=differs.pixels,
        )

    def _masks(self, name: str) -> int:
        return len(self._texts) if name == BATCH else 1

    def _per_mask(self, name: str, calls: Sequence[float]) -> float:
        return statistics.fmean(calls) / self._masks(name)

    def _ask(self, image: int, text: str) -> Segmentation:
        return self._predictor(self.images[image], text)

    def _click(self, image: int) -> Segmentation:
        """Click on the middle of the image."""
        height, width = self.images[image].shape[:2]
        return self._predictor.correct(points=[(width / 2, height / 2)], labels=[1])

    def _timed(
        self,
        way: str,
        image: int,
        call: Callable[[], Segmentation | list[Segmentation]],
    ) -> float:
        """Return the seconds of a call, and compare its masks."""
        answer, seconds = timed(call, self._predictor.device)
        for found in answer if isinstance(answer, list) else [answer]:
            alone = self.alone[image, found.instruction, bool(found.clicks)]
            self.differences[way].add(found, alone)
        return seconds

    def _further(self, image: int) -> None:
        asked = [partial(self._ask, image, text) for text in self._texts]
        self.taken[FURTHER].append([self._timed(FURTHER, image, call) for call in asked])

    def _batch(self, image: int) -> None:
        call = partial(self._predictor, self.images[image], self._texts)
        self.taken[BATCH].append([self._timed(BATCH, image, call)])

    def _corrected(self, image: int) -> None:
        self._ask(image, self._texts[0])  # the mask that is corrected
        self.taken[CLICK].append([self._timed(CLICK, image, partial(self._click, image))])

    def _staged(self, image: int) -> None:
        """Take a first mask once more, with the clock of the stages."""
        call = partial(self._ask, image, self._texts[0])
        with stage_clock(self._predictor) as seconds:
            whole = self._timed(FIRST, image, call)
        self.staged.append(whole)
        for name, taken in seconds.items():
            self.stages[name].append(taken)
        self.stages[REST].append(whole - sum(seconds.values()))
