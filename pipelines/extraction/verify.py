"""Check a store, and repair what is broken by extracting it again."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lens_cache.extraction.recompute import Agreement, recompute
from lens_cache.progress import Progress
from lens_cache.store.folder import StoreFolder
from lens_cache.store.manifest import Manifest, with_overrides
from lens_cache.store.mend import forget_broken, restore_manifest
from lens_cache.store.store import Store
from lens_cache.store.verify import Verification, verify_store
from pipelines.extraction.extract import extract
from pipelines.extraction.job import Runner
from pipelines.extraction.runners import on_ray
from pipelines.progress import Reporter


@dataclass(frozen=True)
class Check:
    """The result of a check: the stored bytes, and features recomputed by the plain models."""

    stored: Verification
    agreements: list[Agreement] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.stored.problems and all(record.good for record in self.agreements)


def check(
    root: str | Path,
    *,
    recompute_count: int,
    overrides: tuple[str, ...],
    seed: int,
    device: str,
    progress: Progress,
) -> Check:
    """Check every byte; if no byte is wrong, recompute some records.

    Args:
        root: The store.
        recompute_count: Number of records to recompute; may be 0.
        overrides: Settings on top of the store's, as ``a.b=value``: the folders of data and
            checkpoints if they have moved.
        seed: Chooses the records.
        device: The device of the plain models.
        progress: Called with the step's name, steps done and in all.
    """
    stored = verify_store(root, progress=lambda done, total: progress("verify", done, total))
    if not recompute_count or stored.problems:
        return Check(stored)
    store = Store(root)
    return Check(
        stored,
        recompute(
            store,
            with_overrides(store.manifest, overrides),
            recompute_count,
            seed=seed,
            device=device,
            progress=lambda done, total: progress("recompute", done, total),
        ),
    )


def repair_store(
    root: str | Path,
    overrides: tuple[str, ...],
    reporter: Reporter,
    address: str | None = None,
    runner: Runner | None = None,
) -> None:
    """Forget what is broken, then extract what is missing.

    Shards without a problem are not touched. A broken file outside the feature groups is written
    again from data and checkpoints.

    Args:
        root: The store.
        overrides: Settings on top of the store's, as ``a.b=value``: the folders of data and
            checkpoints if they have moved.
        reporter: Receives progress and messages.
        address: A Ray cluster; this machine by default.
        runner: Extracts the shards; Ray by default.

    Raises:
        LensCacheError: If the store cannot be repaired; everything committed is kept.
    """
    folder = StoreFolder(root)
    restore_manifest(folder)
    whole = False
    while not whole:  # shards can be checked only when the plan is sound
        manifest, found = Manifest.load(folder.root), verify_store(folder.root)
        whole = found.whole
        if found.problems:
            with folder.writing():
                folder.reopen(manifest)  # before anything is removed, so that no reader opens it
                forget_broken(folder, found.problems, manifest)
        settings = with_overrides(manifest, overrides)
        extract(folder.root, settings, reporter, runner or on_ray(address))
