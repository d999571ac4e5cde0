"""The report of an evaluation: tables, samples, masks and panels in a folder.

report.json, report.md    scores with intervals
samples.jsonl             one line for each query: its counts and its IoU
predictions.jsonl         its mask, as COCO RLE; `lens-cache evaluate --predictions` scores it again
targets.jsonl             its true mask and its ignored pixels
panels/                   drawn answers
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from lens_cache.evaluation.intervals import Interval
from lens_cache.evaluation.predictions import Prediction, write_predictions
from lens_cache.evaluation.scores import PRECISIONS, Sample, Score, Scores
from lens_cache.evaluation.split import EvaluationSplit
from lens_cache.store.io.files import replacing
from pipelines.evaluation.confidence import Confidence, confidence_lines
from pipelines.provenance import record_run
from pipelines.reports.markdown import table
from pipelines.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class Evaluation(Scores):
    """The result of an evaluation.

    Attributes:
        method: The run's folder, the name of the head, or the file of predictions.
        checkpoint: The checkpoint's file name; empty for a file of predictions.
        data: The store's folder, or the dataset.
        split: The split.
        images: Number of images.
        limit: Most images that were asked for; None for the whole split.
        quarantined: Images of the store that could not be extracted, in any split.
        folder: Folder of the report.
        panels: Files of the panels.
        photos_missing: Number of panels drawn on grey because their image file was not found.
        trained_on: Number of images that the run was trained on.
        confidence: How well the scores order the masks; None without scores.
    """

    method: str
    checkpoint: str
    data: str
    split: str
    images: int
    limit: int | None
    quarantined: int
    folder: str
    panels: list[str] = field(default_factory=list)
    photos_missing: int = 0
    trained_on: int = 0
    confidence: Confidence | None = None


def write_evaluation(
    folder: Path,
    found: Evaluation,
    samples: Sequence[Sample],
    predictions: Sequence[Prediction],
    split: EvaluationSplit,
    settings: object,
) -> None:
    """Write all files but the panels, with their provenance; ``report.json`` comes last.

    Args:
        folder: The folder.
        found: The scores.
        samples: The queries, in the order of the plan.
        predictions: Their masks.
        split: Their true masks.
        settings: Settings of the method, for the provenance.
    """
    record_run(folder, settings)
    _write(folder / "samples.jsonl", _json_lines(asdict(sample) for sample in samples))
    write_predictions(folder / "predictions.jsonl", predictions)
    queries = (split.plan.query(query) for draw in split.draws for query in draw.queries)
    targets = (
        {"query_id": query.query_id, "mask": query.target(), "ignore": query.ignore()}
        for query in queries
    )
    _write(folder / "targets.jsonl", _json_lines(targets))
    _write(folder / "report.md", markdown(found))
    _write(folder / "report.json", json.dumps(asdict(found), indent=2) + "\n")


def _json_lines(entries: Iterable[object]) -> str:
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def same_evaluation(folder: Path, this: Mapping[str, str]) -> bool:
    """Return whether a folder has no report, or one with these fields."""
    path = folder / "report.json"
    if not path.exists():
        return True
    try:
        before = json.loads(path.read_text())
    except ValueError:
        return True  # half-written by an older version
    return all(before.get(name) == value for name, value in this.items())


def markdown(found: Evaluation) -> str:
    """Return the report as Markdown."""
    lines = [
        f"# {Path(found.method).name} on {found.split}",
        "",
        f"{found.images} images, {found.overall.queries} queries of {found.data}; "
        + (f"checkpoint `{found.checkpoint}`; " if found.checkpoint else "")
        + f"{found.quarantined} images or entries are quarantined. Intervals: 95 % bootstrap over "
        "images.",
        "",
        *_table("queries", {"all": found.overall, **found.by_kind}),
    ]
    if found.by_dataset:
        lines += _table("dataset", found.by_dataset)
    if found.by_topic:
        lines += _table("topic", found.by_topic)
    lines += _table("target, share of the image", found.by_size)
    lines += _table("instruction", found.by_words)
    if found.confidence is not None:
        lines += confidence_lines(found.confidence)
    if found.trained_on:
        lines += [f"**{_seen(found)}**", ""]
    if found.photos_missing:
        lines += [f"{found.photos_missing} panels are drawn on grey: image file not found.", ""]
    lines += [f"![](panels/{Path(name).name})" for name in found.panels]
    return "\n".join(lines) + "\n"


def _seen(found: Evaluation) -> str:
    return f"the run was trained on {found.trained_on} of these {found.images} images"


def _table(head: str, scores: Mapping[str, Score]) -> list[str]:
    """Return a table with one row for each group, and a column for each score that one has."""
    columns: dict[str, Callable[[Score], Interval | None]] = {
        "gIoU": lambda score: score.giou,
        "cIoU": lambda score: score.ciou,
        **{f"P@{x}": partial(_precision, threshold=str(x)) for x in PRECISIONS},
        "boundary IoU": lambda score: score.boundary_iou,
        "N-acc": lambda score: score.n_acc,
        "T-acc": lambda score: score.t_acc,
    }
    shown = {
        name: column
        for name, column in columns.items()
        if any(column(score) is not None for score in scores.values())
    }
    body = [
        [name, str(score.queries), *(_cell(column(score)) for column in shown.values())]
        for name, score in scores.items()
    ]
    return [*table([head, "number", *shown], body), ""] if body else []


def _precision(score: Score, threshold: str) -> Interval | None:
    return score.precision.get(threshold)


def _cell(value: Interval | None) -> str:
    return "" if value is None else value.percent()


def evaluation(found: Evaluation) -> Report:
    """Report gIoU and cIoU."""
    topics = [(f"topic {name}", score) for name, score in found.by_topic.items()]
    rows = [("all", found.overall), *found.by_kind.items(), *found.by_dataset.items(), *topics]
    lines = [
        f"{name:<20} {score.queries:>6} queries   gIoU {100 * score.giou.value:5.1f}   "
        f"cIoU {100 * score.ciou.value:5.1f}"
        for name, score in rows
    ]
    lines += [_no_target(found.overall)] if found.overall.n_acc is not None else []
    if found.confidence is not None:
        kept = 1 - found.confidence.curve.risk[0.5]
        lines.append(f"the half of the masks with the highest scores: gIoU {100 * kept:.1f}")
    if found.trained_on:
        lines.append(f"warning: {_seen(found)}")
    if found.photos_missing:
        lines.append(f"{found.photos_missing} panels on grey: image files not found (--data-root)")
    lines.append(f"report and {len(found.panels)} panels in {found.folder}")
    return Report(asdict(found), "\n".join(lines))


def _no_target(score: Score) -> str:
    t_acc = f", T-acc {100 * score.t_acc.value:.1f}" if score.t_acc is not None else ""
    assert score.n_acc is not None
    return f"without a target: N-acc {100 * score.n_acc.value:.1f}{t_acc}"
