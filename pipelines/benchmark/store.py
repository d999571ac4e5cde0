"""Measure how fast a store is read, next to the limit and to other packages."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch

from lens_cache.errors import ConfigError, StoreError
from lens_cache.store.space import require_space
from pipelines.benchmark.memory import ready_memory
from pipelines.benchmark.page_cache import drop_pages, mapped_file, reload
from pipelines.benchmark.random_features import (
    FULL_SIZE,
    SMALL_SIZE,
    RandomFeatures,
    Record,
    RecordSizes,
)
from pipelines.benchmark.store_peers import LitData, MosaicStreaming, SafetensorsFiles, WebDataset
from pipelines.benchmark.store_report import ReadSpeed, StoreBenchmark, StoreSpeed
from pipelines.benchmark.store_ways import (
    SHUFFLE_BUFFER,
    OurStream,
    OurTars,
    OurZarr,
    PlainZarr,
    Raw,
    Way,
)
from pipelines.progress import Reporter

WAYS: tuple[type[Way], ...] = (
    Raw,
    OurZarr,
    OurTars,
    OurStream,
    PlainZarr,
    WebDataset,
    MosaicStreaming,
    LitData,
    SafetensorsFiles,
)
ORDERS = ("sequential", "shuffled")
# Ways that need a package which is not a core dependency: its module, and how to install it.
EXTRAS: dict[type[Way], tuple[str, str]] = {
    LitData: ("litdata", "pip install 'lens-cache[benchmark]'"),
    # It requires old versions of NumPy and Transformers, but runs with new ones.
    MosaicStreaming: (
        "streaming",
        "pip install --no-deps mosaicml-streaming Brotli catalogue cramjam python-snappy xxhash "
        "zstd",
    ),
}
_IMAGES, _IMAGES_FULL_SIZE = 32, 64


def benchmark_store(
    reporter: Reporter,
    *,
    full_size: bool = False,
    images: int | None = None,
    rounds: int = 15,
    cold: bool = False,
    out: Path | None = None,
) -> StoreBenchmark:
    """Write the same random records in every way and read them in turns.

    Args:
        reporter: Receives the progress.
        full_size: Records of LLaVA-1.5-7B and SAM ViT-H (7.5 MB) instead of smaller ones (3.5 MB).
        images: Number of records.
        rounds: Number of rounds.
        cold: Drop the files from the page cache before each pass.
        out: A new folder in which the files are kept; by default a temporary folder.

    Raises:
        ConfigError: If ``out`` is not empty.
        StoreError: If the disk is too small, or a way does not return the written records.
    """
    sizes = FULL_SIZE if full_size else SMALL_SIZE
    images = images or (_IMAGES_FULL_SIZE if full_size else _IMAGES)
    with ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = _new_folder(out)
        return measure(folder, sizes, reporter, images=images, rounds=rounds, cold=cold)


def measure(
    folder: Path,
    sizes: RecordSizes,
    reporter: Reporter,
    *,
    images: int,
    rounds: int,
    cold: bool = False,
) -> StoreBenchmark:
    """Measure records of any size; see ``benchmark_store``."""
    features = RandomFeatures(sizes, images)
    ready_memory(2 * min(images, SHUFFLE_BUFFER + 2) * features.num_bytes() // images)
    absent = [way for way in WAYS if way in EXTRAS and find_spec(EXTRAS[way][0]) is None]
    chosen = [way for way in WAYS if way not in absent]
    require_space(folder, len(chosen) * features.num_bytes())
    with ExitStack() as stack:
        ways = []
        for number, kind in enumerate(chosen):
            reporter.progress("write", number, len(chosen))
            ways.append(_written(kind, folder, features))
            stack.callback(ways[-1].close)
        reporter.progress("write", len(chosen), len(chosen))
        _check(ways, features)
        seconds = _timed_rounds(ways, reporter, rounds=rounds, cold=cold)
    limit = {order: statistics.median(seconds[0][order]) for order in ORDERS}
    return StoreBenchmark(
        records=sizes.name,
        images=images,
        bytes=features.num_bytes(),
        rounds=rounds,
        cold=cold,
        threads=torch.get_num_threads(),
        ways=tuple(
            StoreSpeed(
                name=way.name,
                how=way.how,
                disk_bytes=sum(path.stat().st_size for path in _files(way)),
                orders={order: _speed(taken[order], limit[order], features) for order in ORDERS},
            )
            for way, taken in zip(ways, seconds, strict=True)
        ),
        not_installed={way.name: EXTRAS[way][1] for way in absent},
    )


def _new_folder(out: Path) -> Path:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"benchmarking a store in {out}: expected no folder or an empty one; remove it or "
            "choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    return out


def _written(kind: type[Way], folder: Path, features: RandomFeatures) -> Way:
    """Write the records in one way and open them."""
    own = folder / "-".join(kind.name.replace(",", "").split())
    own.mkdir(parents=True)
    way = kind(own, features)
    way.write()
    reload(_files(way))
    way.open()
    return way


def _check(ways: Sequence[Way], features: RandomFeatures) -> None:
    """Read every way once in each order and compare all values; this is also the warm-up.

    Raises:
        StoreError: If a way returns other values, or views of a file.
    """
    expected = [record.checksum() for record in features]
    for way in ways:
        in_order = [_own(way, record).checksum() for record in way.sequential()]
        shuffled = [_own(way, record).checksum() for record in way.shuffled(seed=0)]
        if in_order != expected or sorted(shuffled) != sorted(expected):
            raise StoreError(
                f"benchmarking a store: {way.name} does not return the records that were written; "
                "this is a defect, please report it"
            )


def _own(way: Way, record: Record) -> Record:
    """Return a record after checking that none of its tensors is a view of a mapped file."""
    for tensor in record.tensors():
        if (path := mapped_file(tensor.data_ptr())) is not None:
            raise StoreError(
                f"benchmarking a store: {way.name} returns a view of {path} instead of a copy; "
                "this is a defect, please report it"
            )
    return record


def _timed_rounds(
    ways: Sequence[Way], reporter: Reporter, *, rounds: int, cold: bool
) -> list[dict[str, list[float]]]:
    """Return per way and order the seconds of every round."""
    seconds: list[dict[str, list[float]]] = [{order: [] for order in ORDERS} for _ in ways]
    reporter.progress("benchmark", 0, rounds)
    for number in range(rounds):
        for turn in range(len(ways)):
            place = (number + turn) % len(ways)
            way = ways[place]
            for order in ORDERS:
                if cold:
                    way.close()  # the kernel keeps pages that are mapped
                    drop_pages(_files(way))
                    way.open()
                seconds[place][order].append(_timed(way, order, number))
        reporter.progress("benchmark", number + 1, rounds)
    return seconds


def _timed(way: Way, order: str, seed: int) -> float:
    """Return the seconds of a pass; each record is freed when the next one has been read."""
    began = time.perf_counter()
    for _ in _records(way, order, seed):
        pass
    return time.perf_counter() - began


def _records(way: Way, order: str, seed: int) -> Iterator[Record]:
    return way.sequential() if order == "sequential" else way.shuffled(seed)


def _speed(seconds: Sequence[float], limit: float, features: RandomFeatures) -> ReadSpeed:
    megabytes = features.num_bytes() / 1e6
    median = statistics.median(seconds)
    return ReadSpeed(
        seconds=tuple(seconds),
        mb_per_second=megabytes / median,
        slowest=megabytes / max(seconds),
        fastest=megabytes / min(seconds),
        records_per_second=features.images / median,
        ratio=limit / median,
    )


def _files(way: Way) -> list[Path]:
    return [path for path in way.folder.rglob("*") if path.is_file()]
