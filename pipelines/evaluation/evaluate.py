"""Measure a run, a head or a file of predictions on a split."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lens_cache.errors import ConfigError
from lens_cache.evaluation.confidence import Calibration
from lens_cache.evaluation.predictions import Prediction
from lens_cache.evaluation.scores import Sample, score_all
from lens_cache.evaluation.split import EvaluationSplit
from lens_cache.plan.plan import Plan
from lens_cache.progress import Progress, no_progress
from lens_cache.store.store import Store
from lens_cache.training.run import Run, Which
from lens_cache.training.sampling import Draw
from pipelines.evaluation.confidence import confidence, fit_calibration, save_calibration
from pipelines.evaluation.job import Job
from pipelines.evaluation.panels import evenly_spaced, panel_of, read_photo
from pipelines.evaluation.parts import (
    Result,
    answer_part,
    num_answered,
    open_parts,
    part_draws,
    part_file,
    read_results,
    remove_parts,
)
from pipelines.evaluation.report import Evaluation, same_evaluation, write_evaluation

# Answers the parts of an evaluation, given the job, its folder and the progress.
Runner = Callable[[Job, Path, Progress], None]


def evaluate(
    run: Run,
    store: Store,
    split: str,
    *,
    which: Which | None = None,
    limit: int | None = None,
    num_panels: int = 12,
    device: str = "cpu",
    calibrate: bool = False,
    progress: Progress = no_progress,
) -> Evaluation:
    """Evaluate a run on a split of a store; see ``evaluate_head`` for the arguments.

    Raises:
        LensCacheError: If run and store do not fit, or the split is empty.
    """
    job = Job.of_run(run, store, split, which=which, limit=limit, device=device)
    return evaluate_head(
        job, run=run, which=which, num_panels=num_panels, calibrate=calibrate, progress=progress
    )


def evaluate_head(
    job: Job,
    *,
    run: Run | None = None,
    which: Which | None = None,
    folder: Path | None = None,
    num_panels: int = 12,
    data_root: Path | None = None,
    calibrate: bool = False,
    runner: Runner | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Evaluate a head and write its report.

    Args:
        job: The head and the queries.
        run: The run that the head is of; None for an exported head.
        which: Checkpoint of the run.
        folder: Output folder; of a run by default ``RUN/evaluation/SPLIT``. If that has the report
            of other data or another checkpoint, the name of this one has those as well.
        num_panels: Number of panels, evenly spaced from the best to the worst query.
        data_root: Folder of the image files; by default that of the split.
        calibrate: Also fit the calibration of the run's scores on this split, see ``confidence``.
        runner: Answers the queries; by default in this process.
        progress: Called with the name of the step, images done and images in all.

    Raises:
        ConfigError: If an exported head has no output folder, or is to be calibrated.
        LensCacheError: If head and features do not fit.
    """
    if folder is None:
        if run is None:
            raise ConfigError("evaluating an exported head: expected an output folder, found none")
        folder = run_folder(run, job, which)
    results = answer(job, folder, runner or in_this_process, progress)
    calibration = job.head.calibration
    if calibrate:
        if run is None:
            raise ConfigError(
                "calibrating: expected a run, found an exported head; calibrate the run, then "
                "export it again"
            )
        calibration = fit_calibration([result.sample for result in results], job.split.name)
        save_calibration(run, calibration)
    if calibration is not None:
        results = [_with_score(result, calibration) for result in results]
    samples = [result.sample for result in results]
    names, missing = _draw_panels(
        job, folder, data_root or job.split.root, _choose(samples, num_panels), progress
    )
    found = summarise(
        results,
        job.split,
        method=job.head.name,
        checkpoint="" if run is None else run.checkpoint(which).name,
        folder=folder,
        measure="" if calibration is None else calibration.measure,
        fitted_on="" if calibration is None else calibration.split,
    )
    trained = frozenset() if run is None else run.trained_images() or frozenset()
    found = replace(
        found,
        panels=names,
        photos_missing=missing,
        trained_on=len({sample.image_id for sample in samples} & trained),
    )
    write(found, results, job.split, job.head.config)
    remove_parts(folder)
    return found


def run_folder(run: Run, job: Job, which: Which | None) -> Path:
    """Return the folder of the report of a run."""
    name = re.sub(r"[/|]", "_", job.split.name)
    folder = run.folder / "evaluation" / name
    origin, checkpoint = job.split.origin, run.checkpoint(which).name
    if same_evaluation(folder, {"data": origin, "checkpoint": checkpoint}):
        return folder
    digest = hashlib.sha256(origin.encode()).hexdigest()[:8]
    place = re.sub(r"[^\w.-]+", "_", Path(origin).name)
    return folder.with_name(f"{name}-{place}-{digest}-{Path(checkpoint).stem}")


def answer(job: Job, folder: Path, runner: Runner, progress: Progress) -> list[Result]:
    """Answer all queries of a job; those that an earlier, killed call has answered stay."""
    parts = len(part_draws(job.split.draws))
    if open_parts(folder, job.key()):
        print(
            f"lens-cache: {folder} had a part of an evaluation of another head, other queries or "
            "another device; starting over",
            file=sys.stderr,
        )
    answered = sum(num_answered(part_file(folder, number)) for number in range(parts))
    if answered < len(job.split.draws):
        runner(job, folder, progress)
    return read_results(folder, parts)


def in_this_process(job: Job, folder: Path, progress: Progress) -> None:
    """Answer all parts one after another."""
    answers = job.build()
    done = 0
    for number, draws in enumerate(part_draws(job.split.draws)):
        file = part_file(folder, number)
        done += num_answered(file)
        for _ in answer_part(answers, draws, file):
            done += 1
            progress("evaluate", done, len(job.split.draws))


def summarise(
    results: Sequence[Result],
    split: EvaluationSplit,
    *,
    method: str,
    folder: Path,
    checkpoint: str = "",
    measure: str = "",
    fitted_on: str = "",
) -> Evaluation:
    """Score results; see ``Evaluation`` and ``confidence`` for the arguments."""
    samples = [result.sample for result in results]
    return Evaluation(
        method=method,
        checkpoint=checkpoint,
        data=split.origin,
        split=split.name,
        images=len(split.draws),
        limit=split.limit,
        quarantined=split.quarantined,
        **vars(score_all(samples)),
        confidence=confidence(samples, measure=measure, fitted_on=fitted_on),
        folder=str(folder),
    )


def write(
    found: Evaluation, results: Sequence[Result], split: EvaluationSplit, settings: object
) -> None:
    """Write the report of results; ``settings`` are for the provenance."""
    predictions = [
        Prediction(query_id=one.sample.query_id, mask=one.mask, score=one.sample.score)
        for one in results
    ]
    samples = [result.sample for result in results]
    write_evaluation(Path(found.folder), found, samples, predictions, split, settings)


def _with_score(result: Result, calibration: Calibration) -> Result:
    score = calibration.score(result.sample.measures)
    return replace(result, sample=replace(result.sample, score=score))


def _choose(samples: Sequence[Sample], count: int) -> dict[str, str]:
    """Choose queries evenly from best to worst; return the file name of each query id."""
    ordered = sorted(samples, key=lambda sample: (-sample.iou, sample.query_id))
    chosen = [ordered[index].query_id for index in evenly_spaced(len(ordered), count)]
    return {query_id: f"{rank:02d}_{query_id}.png" for rank, query_id in enumerate(chosen)}


def _draw_panels(
    job: Job, out: Path, root: Path, chosen: Mapping[str, str], progress: Progress
) -> tuple[list[str], int]:
    """Draw the chosen queries; return the files, and the number of missing image files."""
    folder = out / "panels"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    names: list[str] = []
    missing = 0
    if not chosen:
        return names, missing
    answers = job.build()
    for draw in _with_queries(job.split.plan, job.split.draws, chosen):
        for sample, pair, found in answers.of(draw):
            photo = read_photo(root, sample.image)
            missing += photo is None
            path = folder / chosen[sample.query_id]
            panel_of(sample, pair, found, photo).draw().save(path)
            names.append(str(path))
            progress("panels", len(names), len(chosen))
    return sorted(names), missing


def _with_queries(plan: Plan, draws: Sequence[Draw], chosen: Mapping[str, str]) -> list[Draw]:
    """Return the draws of the chosen queries only."""
    ids = plan.queries["query_id"].to_pylist()
    kept = [
        Draw(draw.image, tuple(query for query in draw.queries if ids[query] in chosen))
        for draw in draws
    ]
    return [draw for draw in kept if draw.queries]
