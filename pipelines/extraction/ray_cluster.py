"""The Ray cluster: joining it, the resources of a worker, the number of workers."""

from __future__ import annotations

import logging
import os
from typing import Any

import ray

from lens_cache.config.extract import WorkersConfig
from lens_cache.errors import ExtractionError, one_line

_GB = 10**9


def connect(address: str | None) -> bool:
    """Join a cluster, or start one here without a dashboard; returns whether it was started here.

    By default, Ray would join a cluster that another program started on this machine, and lose its
    workers when that program ends. A cluster that is started here listens on all interfaces, as Ray
    always does, but answers only requests with a token that it makes for this user.

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
        # Ray raises SystemExit if a named cluster does not answer.
        raise ExtractionError(
            f"connecting to Ray at {elsewhere or 'this machine'}: {one_line(error)}"
        ) from None
    return not elsewhere


def placement(workers: WorkersConfig) -> dict[str, Any]:
    """Return the resources of a worker, as Ray's options.

    GPU or CPU is chosen once, not per worker: their features differ in the last bits, and a store
    must not depend on which worker extracted which shard.
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
    """Return the number of workers: as configured, or as many as the cluster has room for.

    Args:
        workers: The settings.
        options: A worker's placement.
        model_bytes: Memory of a worker's models, used if no memory is configured.
    """
    if workers.count is not None:
        return workers.count
    there = resources()
    if "num_gpus" in options:
        return max(1, int(there.get("GPU", 0) / workers.gpus_per_worker))
    by_cores = int(there.get("CPU", 0) / options["num_cpus"])
    by_memory = int(there.get("memory", 0) / max(1, options.get("memory", model_bytes)))
    return max(1, min(by_cores, by_memory))


def workers_on_node(node: str, options: dict[str, Any], count: int | None) -> tuple[int, int]:
    """Return how many workers may run on a node at the same time, at least one, and its cores.

    Args:
        node: Ray's id of the node.
        options: A worker's placement.
        count: Number of workers of the whole cluster, if it is set.
    """
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    there: dict[str, float] = {}
    for found in nodes:
        if found["NodeID"] == node:
            there = found["Resources"]
    pairs = (("num_gpus", "GPU"), ("num_cpus", "CPU"), ("memory", "memory"))
    fits = [int(there.get(name, 0) / options[key]) for key, name in pairs if options.get(key)]
    if count is not None:
        fits.append(count)
    return max(1, min(fits)), int(there.get("CPU", 1))


def require_room(options: dict[str, Any]) -> None:
    """Refuse a worker that needs more than this machine has.

    Raises:
        ExtractionError: If it does.
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
    """Return a worker's resources and the cluster's, for a message."""
    there = resources()
    pairs = (("num_gpus", "GPU"), ("num_cpus", "CPU"), ("memory", "memory"))
    wanted = [f"{options[key]:g} {name}" for key, name in pairs if key in options]
    found = [f"{there.get(name, 0):g} {name}" for key, name in pairs if key in options]
    return f"a worker takes {', '.join(wanted)}; the cluster has {', '.join(found)} in all"


def resources() -> dict[str, float]:
    """Return the total resources of the living nodes."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def living_nodes() -> set[str]:
    """Return the ids of the living nodes."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in nodes if node["Alive"]}
