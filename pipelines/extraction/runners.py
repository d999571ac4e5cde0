"""Where the shards of an extraction are extracted: in this process, or on Ray."""

from __future__ import annotations

from lens_cache.extraction.computation import device_kind
from lens_cache.extraction.extractor import ShardExtractor
from pipelines.extraction.job import Job, Runner
from pipelines.extraction.ledger import Ledger


def run_in_process(job: Job, ledger: Ledger) -> None:
    """Extract the shards of the ledger in this process, without Ray."""
    job.require_device(device_kind("cpu"))
    extractor = ShardExtractor(job.root, job.config, job.groups, "cpu")
    with job.stop.draining():
        while not job.stop.requested and (task := ledger.next()) is not None:
            job.on_report(extractor.extract(task.shard, task.groups))
            ledger.done(task)


def on_ray(address: str | None) -> Runner:
    """Return a runner for a Ray cluster, or for this machine if there is no address."""

    def runner(job: Job, ledger: Ledger) -> None:
        from pipelines.extraction.ray_pool import run_on_ray

        run_on_ray(job, ledger, address)

    return runner
