"""What LENS costs: memory, device time and bytes of both phases, and time of a mask."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch

from lens_cache.config.train import BatchConfig, TrainConfig
from lens_cache.evaluation.split import EvaluationSplit
from lens_cache.images.files import read_image_file
from lens_cache.models.lens import LensModel
from lens_cache.predictor import LensPredictor
from lens_cache.predictor.trained_head import TrainedHead
from lens_cache.store.io.files import folder_size, replacing
from lens_cache.store.run_log import shard_reports
from lens_cache.store.store import Store
from lens_cache.toy.world import write_world
from lens_cache.training.data import Batch, training_loader
from lens_cache.training.losses import LensLoss
from lens_cache.training.optimizer import build_optimizer
from lens_cache.training.run import autocast
from lens_cache.training.sampling import Share
from lens_cache.training.splits import with_splits
from pipelines.benchmark.extract import weights_bytes
from pipelines.benchmark.memory import extra_memory
from pipelines.benchmark.segment_stages import synchronise
from pipelines.demo.shapes_settings import extract_config
from pipelines.extraction.extract import extract
from pipelines.extraction.runners import run_in_process
from pipelines.progress import Reporter
from pipelines.reports.markdown import table
from pipelines.reports.report import Report

GB = 1e9
# Steps before the time of a training step is measured.
WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The costs of a store, a training from it and a prediction.

    Attributes:
        method: The head.
        data: The store.
        device: Where training and prediction were measured.
        frozen_gb: Weights of the two frozen models, as far as they are loaded.
        extraction_s: Seconds of a worker for 1,000 queries, from the records of the store; None if
            it has none, because it was converted.
        store_gb: Bytes of the store for 1,000 queries.
        training_gb: Peak memory of training steps, weights and optimizer included, on one device.
        training_s: Seconds of a device for 1,000 queries of a training.
        first_ms: Median time of the first mask of an image, both encoders included.
        further_ms: Median time of a further mask on an encoded image.
        calls: Forward passes of the multimodal LLM for each query; it does not decode any token.
    """

    method: str
    data: str
    device: str
    frozen_gb: float
    extraction_s: float | None
    store_gb: float
    training_gb: float | None
    training_s: float
    first_ms: float
    further_ms: float
    calls: int = 1


def measure_cost(
    head: TrainedHead,
    store: Store,
    split: EvaluationSplit,
    reporter: Reporter,
    *,
    device: str,
    steps: int = 20,
    images: int = 10,
    overrides: tuple[str, ...] = (),
) -> Cost:
    """Measure all costs.

    Args:
        head: A trained head; its settings are those of the training.
        store: A store that fits it.
        split: Images and queries to predict.
        reporter: Receives the progress.
        device: Device of training and prediction.
        steps: Training steps.
        images: Images to predict.
        overrides: Paths of the frozen models on this machine.
    """
    reporter.message("training steps from the store")
    memory, seconds = _training(head.config, store, device, steps)
    reporter.message("masks")
    predictor = LensPredictor(head, overrides=overrides, device=device)
    first, further = _prediction(predictor, split, device, images)
    frozen = predictor.segmenter.frozen
    return Cost(
        method=head.name,
        data=str(store.root),
        device=device,
        frozen_gb=weights_bytes([frozen.llava.model, frozen.sam.model]) / GB,
        extraction_s=_extraction(store),
        store_gb=1000 * folder_size(store.root) / store.plan.num_queries / GB,
        training_gb=None if memory is None else memory / GB,
        training_s=1000 * seconds,
        first_ms=1000 * first,
        further_ms=1000 * further,
    )


def _extraction(store: Store) -> float | None:
    """Return the seconds of a worker for 1,000 queries, from the records of all runs."""
    shards = shard_reports(store.root)
    queries = sum(shard["queries"] for shard in shards)
    return 1000 * sum(shard["wall"] for shard in shards) / queries if queries else None


def _training(
    config: TrainConfig, store: Store, device: str, steps: int
) -> tuple[int | None, float]:
    """Return the peak memory of training steps and the seconds for each query."""
    layer = config.model.layer or store.layers[0]
    batch: BatchConfig = with_splits(config.batch, store)
    loader = training_loader(
        store,
        layer=layer,
        loss=config.loss,
        batch=batch,
        share=Share(num_batches=WARM_UP + steps, seed=0),
    )
    found: list[tuple[float, int]] = []

    def run() -> None:
        model = LensModel(config.model, store.frozen()).to(device).train()
        optimizer = build_optimizer(model.parameters(), config.optimizer)
        loss = LensLoss(config.loss, side=store.manifest.side)
        batches: Iterator[Batch] = iter(loader)
        for one in islice(batches, WARM_UP + steps):
            began = time.perf_counter()
            moved = one.to(torch.device(device), torch.float32)
            with autocast(config, device):
                output = model(moved.features)
            loss(output, moved.targets).total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            synchronise(device)
            queries = sum(len(draw.queries) for draw in one.draws)
            found.append((time.perf_counter() - began, queries))

    memory = extra_memory(run, device)
    timed = found[WARM_UP:]
    return memory, sum(seconds for seconds, _ in timed) / sum(queries for _, queries in timed)


def _prediction(
    predictor: LensPredictor, split: EvaluationSplit, device: str, images: int
) -> tuple[float, float]:
    """Return the median seconds of the first mask of an image and of a further one."""
    first: list[float] = []
    further: list[float] = []
    for draw in split.draws[: images + 1]:
        image = read_image_file(split.root, split.plan.image(draw.image).path)
        texts = [split.plan.query(query).instruction for query in draw.queries]
        for number, text in enumerate((texts * 2)[:3]):
            began = time.perf_counter()
            predictor(image, text)
            synchronise(device)
            (further if number else first).append(time.perf_counter() - began)
    return statistics.median(first[1:] or first), statistics.median(further[2:] or further)


def report_cost(found: Cost) -> Report:
    """Report the costs as a table."""
    rows = [
        ["memory of the frozen models, weights", f"{found.frozen_gb:.3g} GB"],
        ["extraction, one worker, 1,000 queries", _seconds(found.extraction_s)],
        ["store, 1,000 queries", f"{found.store_gb:.3g} GB"],
        [
            "memory of a training, one device",
            "not known" if found.training_gb is None else f"{found.training_gb:.3g} GB",
        ],
        ["training, one device, 1,000 queries", _seconds(found.training_s)],
        ["first mask of an image", f"{found.first_ms:.0f} ms"],
        ["further mask of it", f"{found.further_ms:.0f} ms"],
        ["forward passes of the MLLM for each query", str(found.calls)],
    ]
    head = f"{found.method} on {found.device}, store {found.data}"
    return Report(asdict(found), "\n".join([head, "", *table(["cost", ""], rows)]))


def _seconds(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f} s"


def shapes_store(out: Path, reporter: Reporter) -> Store:
    """Draw a small world of shapes below a folder and extract it, unless that is done already."""
    write_world(out / "world", {"train": 96, "val": 8}, progress=reporter.progress)
    extract(out / "store", extract_config(out / "world"), reporter, run_in_process)
    return Store(out / "store")


def write_cost(found: Cost, out: Path) -> Report:
    """Write ``report.json`` and ``report.md``, and return the report."""
    report = report_cost(found)
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("report.json", json.dumps(report.document, indent=2)),
        ("report.md", report.text),
    ):
        with replacing(out / name) as file:
            file.write(f"{text}\n".encode())
    return report
