"""The demo on photographs with random models: extract, verify, train, evaluate, segment."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from lens_cache.config.data import DataConfig
from lens_cache.config.extract import (
    EncodersConfig,
    ExtractConfig,
    LlavaConfig,
    SamConfig,
    StoreConfig,
)
from lens_cache.config.load import load_config
from lens_cache.config.train import TrainConfig
from lens_cache.datasets.coco import splits_of
from lens_cache.errors import ConfigError, StoreError, StoreMismatchError
from lens_cache.predictor import LensPredictor
from lens_cache.store.store import Store
from lens_cache.toy.random_checkpoints import LLAVA_FOLDER, SAM_FILE, write_tiny_checkpoints
from lens_cache.training.run import CHECKPOINTS, Run
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.report import Evaluation
from pipelines.evaluation.report import evaluation as report_evaluation
from pipelines.extraction.extract import extract
from pipelines.extraction.report import extraction as report_extraction
from pipelines.extraction.report import verification as report_verification
from pipelines.extraction.runners import on_ray
from pipelines.extraction.verify import check
from pipelines.inference.segment import segment
from pipelines.progress import Bars
from pipelines.reports import report
from pipelines.training.train import train

# Images of a larger folder to use, so that the demo takes minutes.
LIMIT = 64


def run_photographs_demo(
    out: Path, root: Path, split: str | None, bars: Bars, *, seed: int = 0
) -> report.Report:
    """Run all steps on photographs, with tiny random models instead of LLaVA and SAM.

    An earlier call with the same ``out`` is resumed; after a complete call only the check, the
    evaluation and the segmentation run again.

    Args:
        out: Output folder.
        root: A COCO folder.
        split: Its split; by default its only one.
        bars: Receive the progress.
        seed: Seed of the random models and of the training.

    Raises:
        ConfigError: If the split is not unique, or ``out`` has a demo of other data.
        LensCacheError: If a step fails.
    """
    split = split or _only_split(root)
    settings = ExtractConfig(
        data=DataConfig(root=root, split=split, limit=LIMIT),
        encoders=EncodersConfig(
            root=out / "checkpoints",
            llava=LlavaConfig(checkpoint=LLAVA_FOLDER),
            sam=SamConfig(checkpoint=SAM_FILE),
        ),
        store=StoreConfig(shard_size=8),
    )
    bars.message(f"demo: up to {LIMIT} images of {root}, {split}; all files in {out}")
    bars.message("1/5 extract: features of tiny random LLaVA and SAM models")
    write_tiny_checkpoints(out / "checkpoints", seed)
    _extract(out / "store", settings, bars)
    bars.message("2/5 verify: every byte, and four records against the reference models")
    _verify(out / "store", bars)
    store = Store(out / "store")
    training = load_config(TrainConfig, None, ["preset=tiny", f"trainer.seed={seed}"])
    bars.message(f"3/5 train: {training.trainer.max_steps} steps from the store")
    start = dataclasses.replace(training.trainer, max_steps=1, validate_every=1)
    with bars.paused():
        # The first step of the warm-up has learning rate 0: this run is the untrained model.
        before = _train(out / "untrained", store, dataclasses.replace(training, trainer=start))
        run = _train(out / "run", store, training)
    bars.message("4/5 evaluate: before and after the training, on the training queries")
    first = evaluate(before, store, split, num_panels=0, progress=bars.progress)
    found = evaluate(run, store, split, progress=bars.progress)
    query = store.plan.query(0)
    photo = root / store.plan.image(query.image_index).path
    bars.message(f'5/5 segment: "{query.instruction}" in {photo.name}')
    answer = segment(LensPredictor(run), photo, [query.instruction], out / "segment")
    return _report(store, first, found, answer)


def _report(
    store: Store, before: Evaluation, after: Evaluation, answer: report.Report
) -> report.Report:
    """Report the results, their meaning, and where the files are."""
    document = {
        "store": str(store.root),
        "evaluation": report_evaluation(after).document,
        "giou_before": before.overall.giou.value,
        "segment": answer.document,
    }
    lines = [
        report_evaluation(after).text,
        f"gIoU {100 * before.overall.giou.value:.1f} before training, "
        f"{100 * after.overall.giou.value:.1f} after, on the training queries",
        "The frozen models are random: these numbers show that the pipeline works, not that LENS "
        "segments.",
        answer.text,
        f"report {Path(after.folder) / 'report.md'}",
        f"panels {Path(after.folder) / 'panels'}",
    ]
    return report.Report(document, "\n".join(lines))


def _only_split(root: Path) -> str:
    """Return the only split of a COCO folder."""
    splits = splits_of(root)
    if len(splits) != 1:
        found = ", ".join(splits) or "none (expected annotations/instances_SPLIT.json)"
        raise ConfigError(
            f"the demo on {root}: expected one split, or --split (SPLIT= for make); "
            f"splits found: {found}"
        )
    return splits[0]


def _extract(root: Path, settings: ExtractConfig, bars: Bars) -> None:
    try:
        summary = extract(root, settings, bars, on_ray(None))
    except StoreMismatchError as error:
        raise ConfigError(
            f"{error}; or choose another folder for this demo with --out (OUT= for make)"
        ) from None
    bars.message(report_extraction(root, summary).text)


def _verify(root: Path, bars: Bars) -> None:
    found = check(
        root, recompute_count=4, overrides=(), seed=0, device="cpu", progress=bars.progress
    )
    bars.message(report_verification(root, found).text)
    if not found.good:
        raise StoreError(
            f"verifying {root}: it has problems; run `lens-cache verify {root} --repair`"
        )


def _train(folder: Path, store: Store, settings: TrainConfig) -> Run:
    """Train, or resume the training; a finished run is not changed."""
    return train(folder, store.root, settings, resume=(folder / CHECKPOINTS).exists())
