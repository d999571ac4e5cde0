"""What commands print: one document for machines, one text for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_cache.config import ExtractConfig
    from pipelines.cost import DryRun
    from pipelines.evaluate import Evaluation
    from pipelines.extract import Summary
    from pipelines.verify import Check


@dataclass(frozen=True)
class Report:
    """The same content twice."""

    document: dict[str, Any]
    text: str


def dry_run(found: DryRun, config: ExtractConfig) -> Report:
    """Report what an extraction would cost."""
    from lens_cache.estimate import ASSUMED_UTILISATION, measure_flops_per_second

    cost, plan = found.estimate, found.plan
    size = sum(cost.feature_bytes.values())
    speed, device = measure_flops_per_second(config.encoders.llava.dtype)
    hours = cost.flops / (speed * ASSUMED_UTILISATION) / 3600
    document = {
        "images": plan.num_images,
        "files": found.files,
        "queries": plan.num_queries,
        "quarantined": plan.quarantine.num_rows,
        "splits": plan.splits(),
        "shards_missing": found.shards,
        "feature_bytes": cost.feature_bytes,
        "naive_bytes": cost.naive_bytes,
        "missing_bytes": found.missing_bytes,
        "free_bytes": found.free_bytes,
        "fits": found.fits,
        "llava_flops": cost.llava_flops,
        "naive_llava_flops": cost.naive_llava_flops,
        "sam_flops": cost.sam_flops,
        "measured_flops_per_second": speed,
        "assumed_utilisation": ASSUMED_UTILISATION,
        "hours_per_worker": hours,
    }
    lines = [
        f"images      {plan.num_images} distinct in {found.files} files",
        f"queries     {plan.num_queries}: {_counts(plan.splits())}",
        f"set aside   {plan.quarantine.num_rows} files or queries (see the plan's quarantine)",
        f"features    {_bytes(size)}; a cache per query would take {_bytes(cost.naive_bytes)}, "
        f"{cost.naive_bytes / max(1, size):.1f} times as much",
        f"to write    {_bytes(found.missing_bytes)} in {_counts(found.shards)} shards; "
        + _room(found),
        f"compute     {_flops(cost.llava_flops)} LLaVA (a full forward per query would be "
        f"{_flops(cost.naive_llava_flops)}), {_flops(cost.sam_flops)} SAM",
        f"time        about {_hours(hours)} for one worker: a matrix product runs at "
        f"{speed / 1e12:.2f} TFLOP/s on this {device}, {ASSUMED_UTILISATION:.0%} of it assumed",
        "nothing was written",
    ]
    return Report(document, "\n".join(lines))


def _room(found: DryRun) -> str:
    if found.free_bytes is None:
        return "how much room there is behind a URL cannot be told"
    warning = "" if found.fits else " - NOT ENOUGH, extract will refuse"
    return f"{_bytes(found.free_bytes)} are free{warning}"


def extraction(root: Path, summary: Summary) -> Report:
    """Report what an extraction did."""
    size = sum(report.size for report in summary.reports)
    busy = {name: round(seconds, 3) for name, seconds in sorted(summary.seconds.items())}
    records = [asdict(record) for record in summary.quarantined]
    document = {
        "store": str(root),
        "images": summary.images,
        "queries": summary.queries,
        "shards_extracted": len(summary.reports),
        "bytes_written": size,
        "seconds": busy,
        "wall_seconds": summary.wall,
        "quarantined": records,
        "set_aside_by_plan": summary.unplanned,
    }
    if not summary.reports:
        head = f"{root} is complete: nothing to do"
    else:
        done = sum(report.images for report in summary.reports)
        head = (
            f"extracted {done} images ({summary.images} images, {summary.queries} queries in all) "
            f"into {root}: {_bytes(size)} in {summary.wall:.1f} s, "
            f"{done / summary.wall:.1f} images/s"
        )
    lines = [head]
    if busy:
        slowest = max(busy, key=lambda name: busy[name])
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in busy.items())
        lines.append(f"time in workers: {times}; most of it in {slowest}")
    lines += _quarantine_lines(records, summary.unplanned)
    return Report(document, "\n".join(lines))


def inspection(root: Path) -> Report:
    """Report what is in a store, finished or not."""
    from lens_cache.plan import Plan
    from lens_cache.store.commits import committed_shards, quarantined
    from lens_cache.store.files import folder_size
    from lens_cache.store.layout import GROUPS
    from lens_cache.store.manifest import Manifest
    from lens_cache.store.reader import PLAN_FOLDER, shard_images

    manifest = Manifest.load(root)
    plan = Plan.load(root / PLAN_FOLDER)
    shards = len(shard_images(plan.num_images, manifest.config["store"]["shard_size"]))
    groups: dict[str, dict[str, Any]] = {}
    for group in GROUPS:
        groups[group] = {
            "shards_committed": len(committed_shards(root, group)),
            "shards": shards,
            "quarantined": len(quarantined(root, group)),
            "bytes": folder_size(root / group),
            "fingerprint": manifest.fingerprints[group],
            "arrays": {
                name: {"shape": list(spec.shape), "dtype": spec.dtype}
                for name, spec in manifest.arrays[group].items()
            },
        }
    document: dict[str, Any] = {
        "store": str(root),
        "complete": manifest.complete,
        "code_version": manifest.code_version,
        "images": plan.num_images,
        "queries": plan.num_queries,
        "splits": plan.splits(),
        "set_aside_by_plan": plan.quarantine.to_pylist(),
        "side": manifest.side,
        "groups": groups,
        "config": manifest.config,
    }
    state = "complete" if manifest.complete else "NOT complete; run `lens-cache extract` again"
    lines = [
        f"{root}: {state}",
        f"{plan.num_images} images, {plan.num_queries} queries: {_counts(plan.splits())}",
    ]
    for name, entry in groups.items():
        lines.append(
            f"{name}: {entry['shards_committed']} of {shards} shards, {_bytes(entry['bytes'])}, "
            f"{entry['quarantined']} images quarantined"
        )
        lines += [
            f"  {key:<24} {'x'.join(map(str, array['shape']))} {array['dtype']}"
            for key, array in entry["arrays"].items()
        ]
        lines += [f"  {key}: {_short(value)}" for key, value in entry["fingerprint"].items()]
    lines += [
        f"set aside: {row['path']} {row['what']}: {row['reason']}"
        for row in document["set_aside_by_plan"]
    ]
    return Report(document, "\n".join(lines))


def verification(root: Path, found: Check) -> Report:
    """Report what a check found."""
    problems = [asdict(problem) for problem in found.stored.problems]
    records = [{**asdict(record), "good": record.good} for record in found.agreements]
    document = {
        "store": str(root),
        "good": found.good,
        "shards": found.stored.shards,
        "bytes": found.stored.size,
        "problems": problems,
        "recomputed": records,
    }
    lines = [f"read {found.stored.shards} shards, {_bytes(found.stored.size)}"]
    for problem in found.stored.problems:
        where = problem.group + ("" if problem.shard is None else f" shard {problem.shard}")
        lines.append(f"BROKEN {where}: {problem.what}")
    if records:
        lines += ["stored against plain forward (relative error, tolerance, largest error):"]
        for array in sorted({record["array"] for record in records}):
            mine = [record for record in records if record["array"] == array]
            worst = max(mine, key=lambda record: record["relative_error"])
            mark = "ok " if all(record["good"] for record in mine) else "BAD"
            lines.append(
                f"  {mark} {array:<24} {worst['relative_error']:.2e} {worst['tolerance']:.0e} "
                f"{max(record['largest_error'] for record in mine):.2e}  ({len(mine)} records)"
            )
    verdict = "good" if found.good else "not good"
    if problems:
        verdict += "; `lens-cache verify STORE --repair` extracts anew what is broken"
    return Report(document, "\n".join([*lines, f"{root}: {verdict}"]))


def evaluation(found: Evaluation) -> Report:
    """Report gIoU and cIoU."""
    topics = [(f"topic {name}", score) for name, score in found.by_topic.items()]
    rows = [("all", found.overall), *found.by_kind.items(), *topics]
    lines = [
        f"{name:<20} {score.queries:>6} queries   gIoU {100 * score.giou.value:5.1f}   "
        f"cIoU {100 * score.ciou.value:5.1f}"
        for name, score in rows
    ]
    if found.photos_missing:
        lines.append(f"{found.photos_missing} panels on grey: photographs not found (--data-root)")
    lines.append(f"report and {len(found.panels)} panels in {found.folder}")
    return Report(asdict(found), "\n".join(lines))


def _quarantine_lines(records: list[dict[str, Any]], unplanned: int) -> list[str]:
    lines = [f"quarantined {r['path']}: {r['group']}: {r['reason']}" for r in records[:20]]
    if len(records) > 20:
        lines.append(f"... and {len(records) - 20} more; see `lens-cache inspect --json`")
    if unplanned:
        lines.append(f"the plan set aside {unplanned} files or queries; see `lens-cache inspect`")
    return lines


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.4g} {unit}"
        size /= 1000
    return f"{size:.4g} TB"


def _flops(value: float) -> str:
    for unit in ("MFLOP", "GFLOP", "TFLOP", "PFLOP"):
        value /= 1000 if unit != "MFLOP" else 1e6
        if value < 1000:
            return f"{value:.3g} {unit}"
    return f"{value / 1000:.3g} EFLOP"


def _hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _short(value: object) -> str:
    text = str(value).replace("\n", "\\n")
    return text if len(text) <= 64 else text[:61] + "..."
