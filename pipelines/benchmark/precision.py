"""Measure each stored precision: bytes, reading speed, error."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch

from lens_cache.config.fields import Precision
from lens_cache.features.types import ImageFeatures
from lens_cache.store.convert import convert
from lens_cache.store.io.files import folder_size
from lens_cache.store.store import Store
from pipelines.benchmark.random_features import FULL_SIZE, SMALL_SIZE, RandomFeatures
from pipelines.benchmark.random_store import LAYER, write_store
from pipelines.progress import Reporter
from pipelines.reports.report import Report

_SHARD_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class PrecisionCost:
    """One precision.

    Attributes:
        precision: Its name.
        record_bytes: Bytes of an image's features in the store.
        records_per_second: Images that one process reads and decodes per second, median round.
        ratio: Speed relative to ``model``.
        errors: Per array ||stored - exact|| / ||exact||.
    """

    precision: Precision
    record_bytes: int
    records_per_second: float
    ratio: float
    errors: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class PrecisionBenchmark:
    """The results of all precisions and the conditions of the measurement.

    Attributes:
        records: Name of the models whose features have these shapes.
        images: Number of records.
        rounds: Number of rounds; each read every store once.
        precisions: The results.
    """

    records: str
    images: int
    rounds: int
    precisions: tuple[PrecisionCost, ...]


def benchmark_precision(
    reporter: Reporter, *, full_size: bool, images: int = 32, rounds: int = 7
) -> PrecisionBenchmark:
    """Write random features, convert them to every precision, and read all of them in turns.

    Args:
        reporter: Receives the progress.
        full_size: Records of LLaVA-1.5-7B and SAM ViT-H instead of smaller ones.
        images: Number of records.
        rounds: Number of rounds.
    """
    features = RandomFeatures(FULL_SIZE if full_size else SMALL_SIZE, images)
    with tempfile.TemporaryDirectory() as scratch:
        stores: dict[Precision, Store] = {}
        for precision in get_args(Precision):
            folder = Path(scratch) / precision
            if precision == "model":
                write_store(folder, features, "zarr", shard_size=_SHARD_SIZE)
            else:
                convert(
                    Path(scratch) / "model",
                    folder,
                    hidden_states=precision,
                    image_embeddings=precision,
                    progress=reporter.progress,
                )
            stores[precision] = Store(folder)
        seconds: dict[Precision, list[float]] = {precision: [] for precision in stores}
        for turn in range(rounds + 1):  # the first round warms up
            reporter.progress("benchmark", turn, rounds)
            for precision, store in stores.items():
                took = _read_all(store)
                if turn:
                    seconds[precision].append(took)
        medians = {precision: statistics.median(taken) for precision, taken in seconds.items()}
        return PrecisionBenchmark(
            records=features.sizes.name,
            images=images,
            rounds=rounds,
            precisions=tuple(
                PrecisionCost(
                    precision=precision,
                    record_bytes=_feature_bytes(store.root) // images,
                    records_per_second=images / medians[precision],
                    ratio=medians["model"] / medians[precision],
                    errors=_errors(stores["model"], store),
                )
                for precision, store in stores.items()
            ),
        )


def _read_all(store: Store) -> float:
    began = time.perf_counter()
    for image in range(store.plan.num_images):
        _read(store, image)
    return time.perf_counter() - began


def _read(store: Store, image: int) -> ImageFeatures:
    return store.read(image, store.plan.query_range(image), LAYER)


def _errors(exact: Store, store: Store) -> dict[str, float]:
    """Return the relative error of each array, over all images."""
    sums: dict[str, list[float]] = {}
    for image in range(store.plan.num_images):
        one, other = _read(exact, image), _read(store, image)
        pairs = {
            "image_tokens": (one.image_tokens, other.image_tokens),
            "text_tokens": (torch.cat(list(one.text_tokens)), torch.cat(list(other.text_tokens))),
            "image_embeddings": (one.image_embedding, other.image_embedding),
        }
        for name, (a, b) in pairs.items():
            total = sums.setdefault(name, [0.0, 0.0])
            total[0] += float((a.double() - b.double()).square().sum())
            total[1] += float(a.double().square().sum())
    return {name: (wrong / whole) ** 0.5 for name, (wrong, whole) in sums.items()}


def _feature_bytes(root: Path) -> int:
    return sum(folder_size(root / name) for name in ("hidden_states", "image_embeddings"))


def report_precision(found: PrecisionBenchmark) -> Report:
    """Format the result as a table."""
    lines = [
        f"{found.images} records of {found.records}, random; median of {found.rounds} rounds, "
        "precisions in turns, one process, files in the page cache",
        "",
        f"{'':<8} {'a record':>10} {'records/s':>10} {'ratio':>7}   relative error",
    ]
    for one in found.precisions:
        errors = ", ".join(f"{name} {error:.1%}" for name, error in one.errors.items())
        lines.append(
            f"{one.precision:<8} {one.record_bytes / 1e6:>7.2f} MB {one.records_per_second:>10.3g} "
            f"{one.ratio:>6.2f}x   {errors}"
        )
    return Report(asdict(found), "\n".join(lines))
