"""The output of ``data check``: a table as text, and a document for ``--json``."""

from __future__ import annotations

from dataclasses import asdict

from lens_cache.plan.lisa_check import FolderCheck, Overlap, Problem, SetCheck
from pipelines.reports.report import Report

_SHOWN = 5


def folder_check(found: FolderCheck) -> Report:
    """Return the report of a check of LISA's folder."""
    document = {
        "root": str(found.root),
        "good": found.good,
        "quick": found.quick,
        "sets": [_document(entry) for entry in found.sets],
        "overlaps": [overlap._asdict() for overlap in found.overlaps],
    }
    width = max(len(entry.name) for entry in found.sets)
    lines = [f"{'set':<{width}}  {'state':<8} {'images':>8} {'queries':>9}  published"]
    lines += [_row(entry, width) for entry in found.sets]
    for entry in found.sets:
        lines += _details(entry)
    lines += [_overlap(overlap) for overlap in found.overlaps if overlap.leak]
    lines += [_overlap(overlap) for overlap in found.overlaps if overlap.training]
    if any(overlap.leak for overlap in found.overlaps):
        lines.append("set data.lisa.exclude_eval_images=true to skip images that are tested on")
    bad = sum(not entry.good for entry in found.sets)
    verdict = "good" if found.good else f"{bad} of {len(found.sets)} sets are missing or broken"
    return Report(document, "\n".join([*lines, f"{found.root}: {verdict}"]))


def _document(entry: SetCheck) -> dict[str, object]:
    document = asdict(entry) | {"good": entry.good}
    for key in ("unreadable", "rejected"):
        document[key] = [problem._asdict() for problem in getattr(entry, key)]
    return document


def _row(entry: SetCheck, width: int) -> str:
    state = "missing" if entry.missing else "ok" if entry.good else "BROKEN"
    queries = "-" if entry.queries is None else str(entry.queries)
    return (
        f"{entry.name:<{width}}  {state:<8} {entry.images:>8} {queries:>9}  {_published(entry)}"
    ).rstrip()


def _published(entry: SetCheck) -> str:
    """Return the published numbers, and whether the numbers found differ from them."""
    count = entry.published
    if count is None:
        return "nothing"
    pairs = [("images", entry.images, count.images), ("queries", entry.queries, count.queries)]
    published = [f"{expected} {what}" for what, _, expected in pairs if expected is not None]
    differs = [found != expected for _, found, expected in pairs if None not in (found, expected)]
    mark = ""
    if differs and not (entry.missing or entry.broken):
        mark = " (differs)" if any(differs) else " (same)"
    unverified = "" if count.verified else ", unverified"
    return f"{', '.join(published)}{mark}{unverified}: {count.source}"


def _details(entry: SetCheck) -> list[str]:
    lines = [entry.missing] if entry.missing else []
    lines += [f"{entry.name}: {entry.broken}"] if entry.broken else []
    if entry.unusable:
        lines.append(f"{entry.name}: {entry.unusable} images have no usable label")
    for problems, what in ((entry.unreadable, "unreadable"), (entry.rejected, "skipped")):
        lines += [f"{entry.name}: {what}: {_problem(each)}" for each in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"{entry.name}: {what}: ... and {len(problems) - _SHOWN} more (--json)")
    return lines


def _problem(problem: Problem) -> str:
    return f"{problem.path}, {problem.what}: {problem.reason}"


def _overlap(overlap: Overlap) -> str:
    verb = "TRAINS ON IMAGES OF" if overlap.leak else "shares images with"
    return (
        f"{overlap.one} {verb} {overlap.other}: {overlap.by_content} by content, "
        f"{overlap.by_coco_id} by COCO id, such as {overlap.first[0]}"
    )
