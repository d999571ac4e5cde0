"""In this process, or on ray."""

from __future__ import annotations

from lens_cache.extraction.extractor import ShardExtractor
from pipelines.extraction.job import Run, Runner
from pipelines.extraction.ledger import Ledger


def run_in_process(run: Run, ledger: Ledger) -> None:
    """Work off the ledger in this process, without Ray."""
    extractor = ShardExtractor(run.root, run.config, run.groups, "cpu")
    with run.stop.draining():
        while not run.stop.requested and (task := ledger.next()) is not None:
            run.on_report(extractor.extract(task.shard, task.groups))
            ledger.done(task)


def on_ray(address: str | None) -> Runner:
    """Return a runner that works on a Ray cluster, or on this machine's own."""

    def runner(run: Run, ledger: Ledger) -> None:
        from pipelines.extraction.ray_pool import run_on_ray

        run_on_ray(run, ledger, address)

    return runner
