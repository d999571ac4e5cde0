"""Check a store, and mend what is broken by extracting it anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lens_cache.errors import CorruptShardError, LensCacheError
from lens_cache.extraction.recompute import Agreement, recompute
from lens_cache.plan.plan import Plan
from lens_cache.store.commits import SHARED, commit_path
from lens_cache.store.io.files import read_json, remove_folder, write_bytes, writer_lock
from lens_cache.store.layout import GROUPS
from lens_cache.store.manifest import Manifest, with_overrides
from lens_cache.store.paths import FROZEN_FOLDER, MANIFEST_FILE, PLAN_FOLDER, SPARE_MANIFEST
from lens_cache.store.quarantine import Quarantine, quarantine_paths
from lens_cache.store.store import Store
from lens_cache.store.verify import Problem, Verification, verify_store
from pipelines.extraction.extract import extract
from pipelines.extraction.job import Runner
from pipelines.extraction.runners import on_ray
from pipelines.progress import Reporter

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Check:
    """What a check found: in the stored bytes, and against the plain models."""

    stored: Verification
    agreements: list[Agreement] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.stored.problems and all(record.good for record in self.agreements)


def check(
    root: Path,
    *,
    recompute_count: int,
    overrides: tuple[str, ...],
    seed: int,
    device: str,
    progress: Progress,
) -> Check:
    """Check every byte; if the bytes are sound, recompute some records.

    Args:
        root: The store.
        recompute_count: How many records to recompute; 0 for none.
        overrides: Where data and checkpoints lie now, as ``a.b=value``.
        seed: Decides which records.
        device: Where the plain models run.
        progress: Called with the step's name, steps done and in all.
    """
    stored = verify_store(root, progress=lambda done, total: progress("verify", done, total))
    if not recompute_count or stored.problems:
        return Check(stored)
    return Check(
        stored,
        recompute(
            Store(root),
            with_overrides(Manifest.load(root), overrides),
            recompute_count,
            seed=seed,
            device=device,
            progress=lambda done, total: progress("recompute", done, total),
        ),
    )


def repair_store(
    root: Path,
    overrides: tuple[str, ...],
    reporter: Reporter,
    address: str | None = None,
    runner: Runner | None = None,
) -> None:
    """Forget what is broken, then extract what is missing.

    Sound shards are not touched. A broken file outside the feature groups is written anew from data
    and checkpoints.

    Args:
        root: The store.
        overrides: Where data and checkpoints lie now, as ``a.b=value``.
        reporter: Where progress goes.
        address: A Ray cluster; this machine by default.
        runner: Works off the shards; Ray by default.
    """
    restored = _restore_manifest(root)
    manifest = Manifest.load(root)
    problems = verify_store(root).problems
    if problems:
        with writer_lock(root):
            # Incomplete first: no reader may open what is being mended.
            dataclasses.replace(manifest, complete=False).save(root)
            _forget(root, problems, shared=manifest.complete or restored)
    extract(root, with_overrides(manifest, overrides), reporter, runner or on_ray(address))


def _restore_manifest(root: Path) -> bool:
    """Put the spare in the place of a damaged manifest; returns whether that was needed.

    The spare does not say complete, so the store is sealed anew.
    """
    try:
        Manifest.load(root)
    except CorruptShardError:
        spare = root / SPARE_MANIFEST
        read_json(spare, purpose=f"mending {root / MANIFEST_FILE} from its spare")
        with writer_lock(root):
            write_bytes(root, root / MANIFEST_FILE, spare.read_bytes())
        return True
    return False


def _forget(root: Path, problems: Sequence[Problem], *, shared: bool) -> None:
    """Remove the commits of what is broken, and broken files that no shard owns."""
    for problem in problems:
        if problem.shard is not None:
            commit_path(root, problem.group, problem.shard).unlink(missing_ok=True)
        elif shared:
            commit_path(root, SHARED, 0).unlink(missing_ok=True)
            for name in (PLAN_FOLDER, FROZEN_FOLDER):
                remove_folder(root / name)
    try:
        Plan.load(root / PLAN_FOLDER)
    except LensCacheError:
        remove_folder(root / PLAN_FOLDER)
    for path in (path for group in GROUPS for path in quarantine_paths(root, group)):
        try:
            Quarantine.load(path)
        except (LensCacheError, TypeError):
            path.unlink()
