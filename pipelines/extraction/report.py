"""The texts that extraction commands print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_cache.plan.plan import Plan
    from lens_cache.store.convert import Conversion
    from pipelines.extraction.dry_run import DryRun
    from pipelines.extraction.duration import Duration
    from pipelines.extraction.job import Summary
    from pipelines.extraction.verify import Check
from pipelines.reports import units
from pipelines.reports.report import Report


def planning(root: Path, made: Plan) -> Report:
    """Report the result of planning."""
    from lens_cache.store.paths import QUARANTINE_TABLE
    from pipelines.extraction.skipped import skipped_lines

    draws = None if made.draws is None else made.draws.num_rows
    document = {
        "store": str(root),
        "images": made.num_images,
        "queries": made.num_queries,
        "draws": draws,
        "splits": made.splits(),
        "skipped": made.quarantine.to_pylist(),
    }
    drawn = "" if draws is None else f" of {draws} draws"
    head = f"planned {made.num_images} images and {made.num_queries} queries{drawn} into {root}"
    return Report(
        document, "\n".join([head, *skipped_lines(made.quarantine, root / QUARANTINE_TABLE)])
    )


def dry_run(found: DryRun, time: Duration) -> Report:
    """Report the cost of an extraction."""
    cost, plan = found.estimate, found.plan
    size = sum(cost.feature_bytes.values())
    speed = found.missing_bytes / max(1.0, 3600 * time.hours)
    document = {
        "images": plan.num_images,
        "files": found.files,
        "queries": plan.num_queries,
        "quarantined": plan.quarantine.num_rows,
        "splits": plan.splits(),
        "shards": found.num_shards,
        "shards_missing": found.shards,
        "images_missing": found.missing_images,
        "feature_bytes": cost.feature_bytes,
        "naive_bytes": cost.naive_bytes,
        "missing_bytes": found.missing_bytes,
        "free_bytes": found.free_bytes,
        "fits": found.fits,
        "llava_flops": cost.llava_flops,
        "naive_llava_flops": cost.naive_llava_flops,
        "sam_flops": cost.sam_flops,
        "missing_flops": found.missing_flops,
        "worker_bytes": found.worker_bytes,
        "gpus": time.gpus,
        "images_per_second": time.images_per_second,
        "rate_source": time.source,
        "hours": time.hours,
        "bytes_per_second": speed,
    }
    lines = [
        f"images      {plan.num_images} distinct in {found.files} files",
        f"queries     {plan.num_queries}: {units.counts(plan.splits())}",
        f"skipped     {plan.quarantine.num_rows} files or queries (see the plan's quarantine)",
        f"features    {units.size(size)}; a cache per query would take "
        f"{units.size(cost.naive_bytes)}, {cost.naive_bytes / max(1, size):.1f} times as much",
        f"to write    {units.size(found.missing_bytes)} of {found.num_shards} shards "
        f"(missing: {units.counts(found.shards)}); {_room(found)}",
        f"compute     {units.flops(cost.llava_flops)} LLaVA (a full forward per query would be "
        f"{units.flops(cost.naive_llava_flops)}), {units.flops(cost.sam_flops)} SAM; the models of "
        f"a worker take up to {units.size(found.worker_bytes)} of memory",
        f"time        about {units.duration(time.hours)} for {found.missing_images} images on "
        f"{time.gpus} GPU(s) or CPU worker(s), writing {units.size(speed)}/s: {time.why}",
        "nothing was written",
    ]
    return Report(document, "\n".join(lines))


def _room(found: DryRun) -> str:
    if found.free_bytes is None:
        return "free space behind a URL is not known"
    warning = "" if found.fits else " - NOT ENOUGH, extract will refuse without --force"
    return f"{units.size(found.free_bytes)} are free{warning}"


def extraction(root: Path, summary: Summary) -> Report:
    """Report the result of an extraction."""
    from lens_cache.extraction.stage_times import bottleneck, busy_shares
    from lens_cache.store.paths import QUARANTINE_TABLE
    from pipelines.extraction.skipped import skipped_lines

    size = sum(report.size for report in summary.reports)
    busy = {name: round(seconds, 3) for name, seconds in sorted(summary.seconds.items())}
    wall = sum(report.wall for report in summary.reports)
    readers = max((report.readers for report in summary.reports), default=1)
    shares = busy_shares(summary.seconds, wall, readers)
    smaller: dict[str, int] = {}
    for shard in summary.reports:
        smaller |= {str(group): size for group, size in shard.smaller_batches.items()}
    records = [asdict(record) for record in summary.quarantined]
    document = {
        "store": str(root),
        "images": summary.images,
        "queries": summary.queries,
        "shards_extracted": len(summary.reports),
        "bytes_written": size,
        "seconds": busy,
        "wall_seconds": summary.wall,
        "busy_shares": {lane: round(share, 3) for lane, share in shares.items()},
        "bottleneck": bottleneck(shares),
        "smaller_batches": smaller,
        "quarantined": records,
        "set_aside_by_plan": summary.skipped.num_rows,
    }
    if not summary.reports:
        head = f"{root} is complete: nothing to do"
    else:
        done = sum(report.images for report in summary.reports)
        head = (
            f"extracted {done} images ({summary.images} images, {summary.queries} queries in all) "
            f"into {root}: {units.size(size)} in {summary.wall:.1f} s, "
            f"{done / summary.wall:.1f} images/s"
        )
    lines = [head]
    if busy:
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in busy.items())
        lines += [f"time in workers: {times}", _pace(shares)]
    for group, images in smaller.items():
        lines.append(
            f"out of memory: a worker continued with {images} images per batch in {group}; lower "
            "workers.images_per_batch"
        )
    lines += _quarantine_lines(records) + skipped_lines(summary.skipped, root / QUARANTINE_TABLE)
    return Report(document, "\n".join(lines))


def verification(root: Path, found: Check) -> Report:
    """Report the result of a check."""
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
    lines = [f"read {found.stored.shards} shards, {units.size(found.stored.size)}"]
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
        verdict += "; `lens-cache verify STORE --repair` extracts again what is broken"
    return Report(document, "\n".join([*lines, f"{root}: {verdict}"]))


def conversion(source: Path, dest: Path, done: Conversion) -> Report:
    """Report the result of a conversion."""
    document = {"store": str(dest), "source": str(source), **asdict(done)}
    head = (
        f"converted {done.converted} of {done.shards} shards ({units.size(done.size)}) of {source} "
        f"into {dest}"
        if done.converted
        else f"{dest} is complete: nothing to do"
    )
    return Report(
        document,
        f"{head}: {done.images} images, {done.queries} queries in the format {done.format}",
    )


def _quarantine_lines(records: list[dict[str, Any]]) -> list[str]:
    lines = [f"quarantined {r['path']}: {r['group']}: {r['reason']}" for r in records[:20]]
    if len(records) > 20:
        lines.append(f"... and {len(records) - 20} more; see `lens-cache inspect --json`")
    return lines


def _pace(shares: Mapping[str, float]) -> str:
    """Return how busy each lane of the workers was, and which one is the bottleneck."""
    from lens_cache.extraction.stage_times import bottleneck

    busy = ", ".join(f"{lane} {share:.0%}" for lane, share in shares.items())
    slowest = bottleneck(shares)
    advice = {
        "read": "reading is the bottleneck: raise workers.decode_threads",
        "models": "the models are the bottleneck",
        "encode": "encoding is the bottleneck: store.precision=model needs none",
        "write": "writing is the bottleneck: check the disk",
        "commit": "committing is the bottleneck: check the disk, or raise store.shard_size",
        None: "no stage was busy most of the time: they wait for each other or for a core",
    }
    return f"busy of the workers' time: {busy}; {advice[slowest]}"
