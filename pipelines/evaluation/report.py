"""The report of an evaluation: tables, samples and panels in ``RUN/evaluation/SPLIT``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lens_cache.evaluation.scores import Sample, Score, Scores
from lens_cache.training.run import Run
from pipelines.evaluation.confidence import Confidence, confidence_lines
from pipelines.provenance import record_run
from pipelines.reports.markdown import table
from pipelines.reports.report import Report


@dataclass(frozen=True, kw_only=True)
class Evaluation(Scores):
    """The result of an evaluation of a run.

    Attributes:
        run: The run's folder.
        checkpoint: The checkpoint's file name.
        store: The store's folder.
        split: The split.
        images: Number of images.
        limit: Most images that were asked for; None for the whole split.
        quarantined: Images of the store that could not be extracted, in any split.
        folder: Folder of the report.
        panels: Files of the panels.
        photos_missing: Number of panels drawn on grey because their image file was not found.
        trained_on: Number of images that the run was trained on.
        confidence: How well the calibrated scores order the masks; None without a calibration.
    """

    run: str
    checkpoint: str
    store: str
    split: str
    images: int
    limit: int | None
    quarantined: int
    folder: str
    panels: list[str] = field(default_factory=list)
    photos_missing: int = 0
    trained_on: int = 0
    confidence: Confidence | None = None


def write_evaluation(folder: Path, found: Evaluation, samples: Sequence[Sample], run: Run) -> None:
    """Write ``report.json``, ``report.md``, ``samples.jsonl`` and their provenance."""
    record_run(folder, run.config)
    (folder / "report.json").write_text(json.dumps(asdict(found), indent=2) + "\n")
    lines = [json.dumps(asdict(sample), ensure_ascii=False) + "\n" for sample in samples]
    (folder / "samples.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "report.md").write_text(markdown(found), encoding="utf-8")


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
        f"# {Path(found.run).name} on {found.split}",
        "",
        f"{found.images} images, {found.overall.queries} queries; checkpoint `{found.checkpoint}`; "
        f"{found.quarantined} images of the store are quarantined. Intervals: 95 % bootstrap over "
        "images.",
        "",
        *_table("queries", {"all": found.overall, **found.by_kind}),
    ]
    if found.by_dataset:
        lines += _table("dataset", found.by_dataset)
    if found.by_topic:
        lines += _table("topic", found.by_topic)
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
    body = [
        [name, str(score.queries), score.giou.percent(), score.ciou.percent()]
        for name, score in scores.items()
    ]
    return [*table([head, "number", "gIoU", "cIoU"], body), ""]


def evaluation(found: Evaluation) -> Report:
    """Report gIoU and cIoU."""
    topics = [(f"topic {name}", score) for name, score in found.by_topic.items()]
    rows = [("all", found.overall), *found.by_kind.items(), *found.by_dataset.items(), *topics]
    lines = [
        f"{name:<20} {score.queries:>6} queries   gIoU {100 * score.giou.value:5.1f}   "
        f"cIoU {100 * score.ciou.value:5.1f}"
        for name, score in rows
    ]
    if found.confidence is not None:
        kept = 1 - found.confidence.curve.risk[0.5]
        lines.append(f"the half of the masks with the highest scores: gIoU {100 * kept:.1f}")
    if found.trained_on:
        lines.append(f"warning: {_seen(found)}")
    if found.photos_missing:
        lines.append(f"{found.photos_missing} panels on grey: image files not found (--data-root)")
    lines.append(f"report and {len(found.panels)} panels in {found.folder}")
    return Report(asdict(found), "\n".join(lines))
