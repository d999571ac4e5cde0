"""The text that `inspect` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.extraction.report import planning
from pipelines.reports import units
from pipelines.reports.report import Report


def inspection(root: str | Path) -> Report:
    """Report the content of a store, complete or not."""
    from lens_cache.store.folder import StoreFolder
    from lens_cache.store.io.remote import plain_errors
    from lens_cache.store.layout import GROUPS, shard_images
    from lens_cache.store.manifest import Manifest

    folder = StoreFolder(root)
    with plain_errors(folder.root, "opening the store"):
        only_planned = folder.manifest() is None and folder.planned
    if only_planned:
        planned = planning(folder.root, folder.plan())
        note = "nothing is extracted yet; run `lens-cache extract`"
        return Report({**planned.document, "complete": False}, f"{planned.text}\n{note}")
    manifest, plan = Manifest.load(folder.root), folder.plan()
    shards = len(shard_images(plan.num_images, manifest.store.shard_size))
    groups: dict[str, dict[str, Any]] = {}
    for group in GROUPS:
        groups[group] = {
            "shards_committed": len(folder.committed(group)),
            "shards": shards,
            "quarantined": len(folder.quarantined(group)),
            "bytes": folder.group_bytes(group),
            "fingerprint": manifest.content(group),
            "computed": [
                {**dict(way), "shards": count}
                for way, count in sorted(
                    folder.computed(group).items(), key=lambda item: (-item[1], sorted(item[0]))
                )
            ],
            "arrays": {
                name: {"shape": list(spec.shape), "dtype": spec.dtype}
                for name, spec in manifest.arrays[group].items()
            },
        }
    tars = folder.tar_bytes()
    document: dict[str, Any] = {
        "store": str(root),
        "format": manifest.format,
        "complete": manifest.complete,
        "code_version": manifest.code_version,
        "images": plan.num_images,
        "queries": plan.num_queries,
        "splits": plan.splits(),
        "set_aside_by_plan": plan.quarantine.to_pylist(),
        "side": manifest.side,
        "groups": groups,
        "samples": {"tars": len(tars), "bytes": sum(tars)},
        "config": manifest.config,
    }
    state = (
        "complete"
        if manifest.complete
        else "NOT complete; run `lens-cache extract` (or `convert`) again"
    )
    lines = [
        f"{root}: {manifest.format}, {state}",
        f"{plan.num_images} images, {plan.num_queries} queries: {units.counts(plan.splits())}",
    ]
    if tars:
        lines.append(f"samples of both groups: {len(tars)} tars, {units.size(sum(tars))}")
    for name, entry in groups.items():
        lines.append(
            f"{name}: {entry['shards_committed']} of {shards} shards, "
            f"{units.size(entry['bytes'])}, {entry['quarantined']} images quarantined"
        )
        lines += [
            f"  {key:<24} {'x'.join(map(str, array['shape']))} {array['dtype']}"
            for key, array in entry["arrays"].items()
        ]
        lines += [f"  {key}: {units.shorten(value)}" for key, value in entry["fingerprint"].items()]
        lines += [_computed(way) for way in entry["computed"]]
    lines += [
        f"skipped: {row['path']} {row['what']}: {row['reason']}"
        for row in document["set_aside_by_plan"]
    ]
    return Report(document, "\n".join(lines))


def _computed(way: Mapping[str, Any]) -> str:
    """Return in words how some shards were computed."""
    facts = [f"{name} {value}" for name, value in way.items() if name not in ("device", "shards")]
    where = ", ".join([str(way.get("device", "not recorded")), *sorted(facts)])
    return f"  computed: {way['shards']} shards on {where}"
