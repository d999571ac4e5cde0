"""Counts and times of a server, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
# Other paths are counted together: their names come from clients.
PATHS = ("/segment", "/agent", "/healthz", "/metrics", "/predict", "/setup", "/health")


class Metrics:
    """The metrics of one server; several servers in one process do not share them."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "lens_cache_requests", "Answered requests.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "lens_cache_request_seconds",
            "Time from a request's headers to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "lens_cache_batch_requests",
            "Requests that ran together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self._routes = Counter(
            "lens_cache_agent_routes",
            "Requests to the agent by route.",
            ("route",),
            registry=self._registry,
        )

    def watch_queue(self, waiting: Callable[[], int]) -> None:
        """Report the number of requests that wait."""
        gauge = Gauge("lens_cache_queue", "Requests that wait.", registry=self._registry)
        gauge.set_function(waiting)

    def answered(self, scope: Mapping[str, Any], status: int, seconds: float) -> None:
        """Count an answer; status 499 is a client that hung up."""
        path = scope["path"] if scope["path"] in PATHS else "other"
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def batch(self, requests: int) -> None:
        """Count a batch."""
        self._batches.observe(requests)

    def routed(self, route: str) -> None:
        """Count a request to the agent."""
        self._routes.labels(route).inc()

    def text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self._registry)
