"""The server under load: latency at several numbers of clients, and that every answer is right."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from lens_cache.images import masks
from lens_cache.predictor import LensPredictor
from lens_cache.toy.drawing import sample_painted_scene
from lens_cache.toy.instructions import sample_instructions
from pipelines.reports.markdown import table
from pipelines.reports.report import Report
from pipelines.serve.api import create_app
from pipelines.serve.limits import Limits

CONCURRENCY = (1, 8, 32)
SEED = 1016  # no world and no training uses it


@dataclass(frozen=True)
class Question:
    """A picture as a PNG, an instruction, and the mask of the unbatched predictor."""

    png: bytes
    instruction: str
    mask: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Load:
    """One level of load.

    Attributes:
        clients: Clients that send one request after another.
        requests: Requests in all.
        lost: Requests without a mask.
        wrong: Answers whose mask differs from the unbatched one.
        p50: Median latency in seconds.
        p95: 95th percentile.
        p99: 99th percentile.
        per_second: Answers per second.
        batch: Mean number of requests that ran together.
    """

    clients: int
    requests: int
    lost: int
    wrong: int
    p50: float
    p95: float
    p99: float
    per_second: float
    batch: float


def shapes_questions(predictor: LensPredictor, images: int) -> list[Question]:
    """Draw scenes; return their instructions, each with the mask of a request of its own."""
    found = []
    for index in range(images):
        rng = np.random.default_rng([SEED, index])
        painted = sample_painted_scene(rng)
        stream = io.BytesIO()
        Image.fromarray(painted.image).save(stream, "PNG")
        for instruction in sample_instructions(painted.scene, rng):
            mask = predictor(painted.image, instruction.text).mask
            found.append(Question(stream.getvalue(), instruction.text, mask))
    return [found[index] for index in np.random.default_rng(SEED).permutation(len(found))]


def measure_load(
    predictor: LensPredictor,
    asked: Sequence[Question],
    requests: int,
    concurrency: Sequence[int] = CONCURRENCY,
) -> list[Load]:
    """Load a server on a free port of this machine, over HTTP.

    Args:
        predictor: The predictor that the server uses.
        asked: The questions, in turn.
        requests: Requests at each level.
        concurrency: Numbers of clients.
    """
    batches: list[int] = []
    app = create_app(predictor, limits=Limits(max_queue=max(64, *concurrency)))
    batcher = app.state.service.batcher
    count = batcher._observe

    def observe(size: int) -> None:
        batches.append(size)
        count(size)

    batcher._observe = observe
    with running(app) as url:
        _send(url, asked[0])
        return [_level(url, asked, requests, clients, batches) for clients in concurrency]


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """Serve an application in a thread; yields its URL."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
        app.state.service.batcher.close()


def _level(
    url: str, asked: Sequence[Question], requests: int, clients: int, batches: list[int]
) -> Load:
    batches.clear()

    def one(number: int) -> tuple[float, bool | None]:
        return _send(url, asked[number % len(asked)])

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        results = list(pool.map(one, range(requests)))
    seconds = time.perf_counter() - start
    latencies = np.array([latency for latency, _ in results])
    p50, p95, p99 = (float(np.percentile(latencies, share)) for share in (50, 95, 99))
    return Load(
        clients=clients,
        requests=requests,
        lost=sum(right is None for _, right in results),
        wrong=sum(right is False for _, right in results),
        p50=p50,
        p95=p95,
        p99=p99,
        per_second=requests / seconds,
        batch=float(np.mean(batches)),
    )


def _send(url: str, question: Question) -> tuple[float, bool | None]:
    """Send one request; returns its latency and whether the mask is right, None without one."""
    start = time.perf_counter()
    try:
        answer = httpx.post(
            f"{url}/segment",
            files={"image": ("picture.png", question.png)},
            data={"instruction": question.instruction},
            timeout=300,
        )
        (entry,) = answer.json()["masks"]
    except (httpx.HTTPError, ValueError, KeyError):
        return time.perf_counter() - start, None
    latency = time.perf_counter() - start
    rle = entry["rle"]
    mask = masks.decode(masks.from_counts(rle["counts"], *rle["size"]))
    return latency, bool(np.array_equal(mask, question.mask))


def report_load(levels: Sequence[Load], predictor: LensPredictor) -> Report:
    """Report all levels in one table."""
    rows = [
        [
            str(level.clients),
            str(level.requests),
            *(f"{1000 * seconds:.0f}" for seconds in (level.p50, level.p95, level.p99)),
            f"{level.per_second:.1f}",
            f"{level.batch:.1f}",
            str(level.lost),
            str(level.wrong),
        ]
        for level in levels
    ]
    head = ["clients", "requests", "p50, ms", "p95, ms", "p99, ms", "per s", "batch", "lost"]
    text = "\n".join(
        [
            f"head {predictor.head.name} on {predictor.device}; one instruction a request; batch: "
            "mean number of requests that ran together; wrong: masks that differ from those of "
            "requests one after another",
            "",
            *table([*head, "wrong"], rows),
        ]
    )
    return Report({"levels": [vars(level) for level in levels]}, text)
