"""Measure gIoU and cIoU of a run on a split of a store, and draw panels of some answers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from lens_cache.evaluation.scores import Sample, score_all
from lens_cache.predictor.trained_head import read_calibration
from lens_cache.progress import Progress
from lens_cache.store.store import Store
from lens_cache.training.data import evaluation_draws
from lens_cache.training.run import Run, Which
from lens_cache.training.sampling import Draw
from pipelines.evaluation.answers import Answers
from pipelines.evaluation.confidence import confidence, fit_calibration, save_calibration
from pipelines.evaluation.panels import evenly_spaced, panel_of, read_photo
from pipelines.evaluation.report import Evaluation, same_evaluation, write_evaluation


def evaluate(
    run: Run,
    store: Store,
    split: str,
    *,
    which: Which | None = None,
    limit: int | None = None,
    num_panels: int = 12,
    data_root: Path | None = None,
    device: str = "cpu",
    calibrate: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a run and write its report to ``RUN/evaluation/SPLIT``.

    A folder that has the report of another store or checkpoint is not overwritten: the name of this
    report then has theirs as well, ``SPLIT-STORE-CHECKPOINT``.

    Args:
        run: The run.
        store: A store with the features that the run was trained on.
        split: Split of the queries.
        which: Checkpoint; by default the best one, or the last one if there is no best one.
        limit: Use only this many images, the first ones.
        num_panels: Number of panels, evenly spaced from the best to the worst query.
        data_root: Folder of the image files; by default the one they were extracted from.
        device: Device of the model.
        calibrate: Also fit the calibration of the run's scores on this split, see ``confidence``.
        progress: Called with the name of the step, images done and images in all.

    Raises:
        LensCacheError: If run and store do not fit, or the split is empty.
    """
    run.require_features_of(store)
    if run.config.trainer.threads is not None:
        torch.set_num_threads(run.config.trainer.threads)
    draws = evaluation_draws(store, split, limit)
    answers = Answers(run, store, which, device)
    samples = []
    for done, draw in enumerate(draws, 1):
        samples += [sample for sample, _, _ in answers.of(draw)]
        if progress is not None:
            progress("evaluate", done, len(draws))
    if calibrate:
        save_calibration(run, fit_calibration(samples, split))
    calibration = read_calibration(run.folder)
    folder = _report_folder(run, store, split, which)
    folder.mkdir(parents=True, exist_ok=True)
    root = data_root or store.manifest.data_root
    seen = run.trained_images() or frozenset()
    chosen = _choose(samples, num_panels)
    names, missing = _draw_panels(folder, answers, draws, chosen, root, progress)
    found = Evaluation(
        run=str(run.folder),
        checkpoint=run.checkpoint(which).name,
        store=str(store.root),
        split=split,
        images=len(draws),
        limit=limit,
        quarantined=store.num_quarantined,
        **vars(score_all(samples)),
        confidence=None if calibration is None else confidence(samples, calibration),
        folder=str(folder),
        panels=names,
        photos_missing=missing,
        trained_on=sum(store.catalogue.image_id(draw.image) in seen for draw in draws),
    )
    write_evaluation(folder, found, samples, run)
    return found


def _report_folder(run: Run, store: Store, split: str, which: Which | None) -> Path:
    name = re.sub(r"[/|]", "_", split)
    folder = run.folder / "evaluation" / name
    this = {"store": str(store.root), "checkpoint": run.checkpoint(which).name}
    if same_evaluation(folder, this):
        return folder
    digest = hashlib.sha256(this["store"].encode()).hexdigest()[:8]
    return folder.with_name(f"{name}-{store.root.name}-{digest}-{Path(this['checkpoint']).stem}")


def _choose(samples: Sequence[Sample], count: int) -> dict[str, str]:
    """Choose queries evenly from best to worst; return the file name of each query id."""
    ordered = sorted(samples, key=lambda sample: (-sample.iou, sample.query_id))
    chosen = [ordered[index].query_id for index in evenly_spaced(len(ordered), count)]
    return {query_id: f"{rank:02d}_{query_id}.png" for rank, query_id in enumerate(chosen)}


def _draw_panels(
    folder: Path,
    answers: Answers,
    draws: Sequence[Draw],
    chosen: dict[str, str],
    root: Path,
    progress: Progress | None,
) -> tuple[list[str], int]:
    """Draw the chosen queries; return the files, and the number of missing image files."""
    (folder / "panels").mkdir(exist_ok=True)
    for old in (folder / "panels").glob("*.png"):
        old.unlink()
    names: list[str] = []
    missing = 0
    for draw in draws:
        mine = tuple(query for query in draw.queries if answers.query_id(query) in chosen)
        if not mine:
            continue
        for sample, pair, answer in answers.of(Draw(draw.image, mine)):
            photo = read_photo(root, sample.image)
            missing += photo is None
            path = folder / "panels" / chosen[sample.query_id]
            panel_of(sample, pair, answer, photo).draw().save(path)
            names.append(str(path))
            if progress is not None:
                progress("panels", len(names), len(chosen))
    return sorted(names), missing
