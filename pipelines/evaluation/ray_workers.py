"""Answer the parts of an evaluation on Ray workers, each with its own copy of the models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from lens_cache.errors import EvaluationError, LensCacheError, one_line
from lens_cache.progress import Progress
from pipelines.evaluation.evaluate import Runner
from pipelines.evaluation.job import Job
from pipelines.evaluation.parts import answer_part, num_answered, part_draws, part_file
from pipelines.extraction.ray_cluster import connect


class Worker:
    """One process with the models on its device."""

    def __init__(self, job: Job, folder: Path) -> None:
        self._parts = part_draws(job.split.draws)
        self._folder = folder
        self._answers = job.build()

    def answer(self, number: int) -> int:
        """Answer a part and return its number of images."""
        draws = self._parts[number]
        return sum(1 for _ in answer_part(self._answers, draws, part_file(self._folder, number)))


def on_ray(workers: int, address: str | None) -> Runner:
    """Return a runner with ``workers`` workers, each with a GPU if the job runs on GPUs.

    A worker that dies ends the evaluation with an error; the same command then resumes it. All
    workers need the folders of the evaluation, the store and the images.

    Args:
        workers: Number of workers.
        address: A Ray cluster; by default one is started on this machine.
    """

    def run(job: Job, folder: Path, progress: Progress) -> None:
        folder = folder.resolve()
        with _cluster(address):
            gpus = int(torch.device(job.device).type == "cuda")
            remote: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(Worker)
            shared = ray.put(job)
            parts = part_draws(job.split.draws)
            answered = [num_answered(part_file(folder, number)) for number in range(len(parts))]
            left = [n for n, draws in enumerate(parts) if answered[n] < len(draws)]
            actors = [remote.remote(shared, folder) for _ in range(min(workers, len(left)))]
            pool = ray.util.ActorPool(actors)
            done = sum(answered)
            try:
                for count in pool.map_unordered(lambda a, part: a.answer.remote(part), left):
                    done += count
                    progress("evaluate", done, len(job.split.draws))
            except RayTaskError as error:
                if isinstance(error.cause, LensCacheError):
                    raise error.cause from None
                raise
            except RayError as error:
                raise EvaluationError(
                    f"evaluating on Ray: a worker ended ({one_line(error, 160)}); run the same "
                    "command again to resume"
                ) from None

    return run


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    connect(address)
    try:
        yield
    finally:
        ray.shutdown()
