"""The result of `benchmark segment` and its tables, in Markdown."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from pipelines.reports.markdown import table
from pipelines.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class MaskSpeed:
    """The result of one way to ask for masks.

    Attributes:
        name: The name of the way.
        how: What is timed.
        masks: Masks of a call.
        seconds: Seconds of every timed call.
        median: Seconds of a mask in the median call.
        fastest: Seconds of a mask in the fastest call.
        slowest: Seconds of a mask in the slowest call.
        masks_per_second: Masks per second in the median call.
        ratio: Its masks per second over those of the first way; median of the rounds' ratios.
        answers: Timed masks that were compared with the one of a single instruction.
        logit_difference: Largest absolute difference of their logits.
        differing_pixels: Pixels of all of them in which the masks differ.
    """

    name: str
    how: str
    masks: int
    seconds: tuple[float, ...]
    median: float
    fastest: float
    slowest: float
    masks_per_second: float
    ratio: float
    answers: int
    logit_difference: float
    differing_pixels: int


@dataclass(frozen=True, kw_only=True)
class StageSpeed:
    """The part of one stage in the first mask.

    Attributes:
        name: The name of the stage.
        seconds: Seconds in every round.
        mean: Their mean. Those of all stages add up to the mean time of a first mask.
        share: Its part of that time.
    """

    name: str
    seconds: tuple[float, ...]
    mean: float
    share: float


@dataclass(frozen=True, kw_only=True)
class SegmentBenchmark:
    """The results and the conditions of the measurement.

    Attributes:
        models: The head; or the names of the frozen models, if all weights are random.
        device: The device that ran them.
        llava_dtype: Precision of the multimodal LLM.
        sam_dtype: Precision of SAM's image encoder.
        head_precision: Precision of the head and the mask decoder, as in a training.
        threads: CPU threads of PyTorch.
        cores: CPU cores that this process may use.
        load: Load of the machine before the models were loaded, mean of one minute.
        images: (width, height) of the images.
        instructions: Instructions of a batch, and further masks of a round.
        rounds: Number of rounds; each ran every way.
        ways: The results of the ways.
        batch_ratio: Masks per second in a batch over those of further masks one by one; median of
            the rounds' ratios.
        stages: The stages of a first mask.
        clock_ratio: Time of a first mask with the clock of the stages over the time without it;
            median of the rounds' ratios.
        largest_logit: Largest absolute logit of all masks, for comparison with the differences.
    """

    models: str
    device: str
    llava_dtype: str
    sam_dtype: str
    head_precision: str
    threads: int
    cores: int
    load: float
    images: tuple[tuple[int, int], ...]
    instructions: int
    rounds: int
    ways: tuple[MaskSpeed, ...]
    batch_ratio: float
    stages: tuple[StageSpeed, ...]
    clock_ratio: float
    largest_logit: float


def report_segment(found: SegmentBenchmark) -> Report:
    """Format the result as two tables."""
    sizes = ", ".join(f"{width} x {height}" for width, height in dict.fromkeys(found.images))
    lines = [
        f"Models: {found.models}; multimodal LLM in {found.llava_dtype}, SAM in {found.sam_dtype}, "
        f"head in {found.head_precision}",
        "",
        f"{found.device}, {found.threads} CPU threads, {found.cores} cores, load {found.load:.1f} "
        "before the measurement",
        "",
        f"{len(found.images)} decoded images of {sizes} pixels, {found.instructions} instructions; "
        f"{found.rounds} rounds, ways in turns; masks in host memory",
        "",
        *table(
            (
                "",
                "ms a mask, median",
                "fastest",
                "slowest",
                "masks/s",
                "speed",
                "logits differ by",
                "pixels differ",
            ),
            (
                (
                    way.name,
                    *(f"{1000 * value:.4g}" for value in (way.median, way.fastest, way.slowest)),
                    f"{way.masks_per_second:.3g}",
                    f"{way.ratio:.2f}x",
                    f"{way.logit_difference:.1e}",
                    f"{way.differing_pixels} in {way.answers} masks",
                )
                for way in found.ways
            ),
        ),
        "",
        *(f"- {way.name}: {way.how}" for way in found.ways),
        f"- speed: masks per second over those of the first row, median of the rounds' ratios; "
        f"a batch makes {found.batch_ratio:.2f}x the masks per second of single instructions",
        "- every mask was compared with the answer to its instruction alone; the largest logit is "
        f"{found.largest_logit:.3g}",
        "",
        *table(
            ("first mask", "ms, mean", "fastest", "slowest", "share"),
            (
                (
                    stage.name,
                    *(
                        f"{1000 * value:.3g}"
                        for value in (stage.mean, min(stage.seconds), max(stage.seconds))
                    ),
                    f"{stage.share:.1%}",
                )
                for stage in found.stages
            ),
        ),
        "",
        f"- the device is synchronised between the stages: a first mask takes "
        f"{found.clock_ratio:.2f}x as long as without the clock",
        "- everything else: resizing, copies, the mask at the size of the image, the score",
    ]
    return Report(asdict(found), "\n".join(lines))
