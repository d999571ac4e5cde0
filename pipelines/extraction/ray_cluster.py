"""The Ray cluster: how to join it, what a worker takes of it, how many workers it holds."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray

from lens_cache.config.extract import WorkersConfig
from lens_cache.errors import ExtractionError, one_line

_GB = 10**9


def connect(address: str | None) -> bool:
    """Join the cluster, or start one here without a dashboard; returns whether it is ours alone.

    Left to itself, Ray would join whatever another program started on this machine, and lose its
    workers when that ends.

    Raises:
        ExtractionError: If the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    elsewhere = address or os.environ.get("RAY_ADDRESS")
    local: dict[str, Any] = {} if elsewhere else {"include_dashboard": False}
    try:
        ray.init(
            address=elsewhere or "local", log_to_driver=False, logging_level=logging.ERROR, **local
        )
    except (ConnectionError, RuntimeError, ValueError, SystemExit) as error:
        # Ray leaves the process when a named cluster does not answer.
        raise ExtractionError(
            f"connecting to Ray at {elsewhere or 'this machine'}: {one_line(error)}"
        ) from None
    return not elsewhere


def placement(workers: WorkersConfig) -> dict[str, Any]:
    """Return the resources of a worker, as Ray's options.

    GPU or CPU is decided once, not per worker: their features differ in the last bits, and a store
    must not depend on who extracted which shard.
    """
    use_gpu = (
        resources().get("GPU", 0) > 0 if workers.device == "auto" else workers.device == "cuda"
    )
    cpus = workers.cpus_per_worker or (1 if use_gpu else workers.threads_per_worker)
    options: dict[str, Any] = {"num_cpus": cpus}
    if use_gpu:
        options["num_gpus"] = workers.gpus_per_worker
    if workers.memory_gb_per_worker is not None:
        options["memory"] = int(workers.memory_gb_per_worker * _GB)
    return options


def room(workers: WorkersConfig, options: dict[str, Any], model_bytes: int) -> int:
    """Return how many workers to have: those asked for, or what the cluster holds now.

    Args:
        workers: The settings.
        options: A worker's placement.
        model_bytes: What the models of a worker may take, where the settings do not say.
    """
    if workers.count is not None:
        return workers.count
    there = resources()
    if "num_gpus" in options:
        return max(1, int(there.get("GPU", 0) / workers.gpus_per_worker))
    by_cores = int(there.get("CPU", 0) / options["num_cpus"])
    by_memory = int(there.get("memory", 0) / max(1, options.get("memory", model_bytes)))
    return max(1, min(by_cores, by_memory))


def require_room(options: dict[str, Any]) -> None:
    """Refuse a worker that this machine can never hold; a cluster may grow.

    Raises:
        ExtractionError: If it takes more than there is.
    """
    there = resources()
    for option, resource, unit, what, setting in (
        ("num_cpus", "CPU", 1, "CPU cores", "cpus_per_worker (or threads_per_worker)"),
        ("num_gpus", "GPU", 1, "GPUs", "gpus_per_worker"),
        ("memory", "memory", _GB, "GB of memory", "memory_gb_per_worker"),
    ):
        wanted, found = options.get(option, 0), there.get(resource, 0)
        if wanted > found:
            raise ExtractionError(
                f"starting workers: one takes {wanted / unit:g} {what}, this machine has "
                f"{found / unit:g}; lower workers.{setting}"
            )


def describe(options: dict[str, Any]) -> str:
    """Return what a worker takes and what the cluster has, for a message."""
    there = resources()
    pairs = (("num_gpus", "GPU"), ("num_cpus", "CPU"), ("memory", "memory"))
    wanted = [f"{options[key]:g} {name}" for key, name in pairs if key in options]
    found = [f"{there.get(name, 0):g} {name}" for key, name in pairs if key in options]
    return f"a worker takes {', '.join(wanted)}; the cluster has {', '.join(found)} in all"


def resources() -> dict[str, float]:
    """Return what the living nodes of the cluster have in all."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def living_nodes() -> set[str]:
    """Return the ids of the nodes that are there."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in nodes if node["Alive"]}
