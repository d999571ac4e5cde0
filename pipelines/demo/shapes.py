"""The demo on the world of shapes with its trained models: from drawn images to a page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import load_config
from lens_cache.config.train import TrainConfig
from lens_cache.encoders.resolve import Encoders
from lens_cache.errors import ConfigError, DatasetError, StoreMismatchError
from lens_cache.evaluation.baseline_scores import Baselines, baselines
from lens_cache.store.store import Store
from lens_cache.toy.world import write_world
from lens_cache.training.run import CHECKPOINTS, Run
from lens_cache.version import __version__
from pipelines.demo.page import Page, render
from pipelines.demo.shapes_settings import extract_config
from pipelines.evaluation.evaluate import evaluate
from pipelines.evaluation.gallery import Gallery, gallery
from pipelines.evaluation.job import Job
from pipelines.evaluation.report import Evaluation
from pipelines.extraction.cost import estimate_cost
from pipelines.extraction.extract import extract
from pipelines.extraction.report import extraction as report_extraction
from pipelines.extraction.runners import on_ray
from pipelines.progress import Bars
from pipelines.reports import report
from pipelines.reports.curves import chart, read_log
from pipelines.training.train import train

IMAGES = {"train": 1200, "val": 40, "test": 120, "hard": 60}
DEVELOPMENT, MEASURED = "val", ("test", "hard")
TRAINING = (
    "preset=shapes",
    f"batch.validation_split={DEVELOPMENT}",
    "trainer.validate_every=100",
)
PAGE_FILE, TIMES_FILE = "index.html", "times.json"
STEPS = ("world", "extract", "train", "evaluate", "baselines", "panels")
_CHARTS = {
    "Loss": ("train/total", "train/dice", "train/bce", "train/attention"),
    f"gIoU on {DEVELOPMENT}": ("val/giou",),
}

T = TypeVar("T")


def run_shapes_demo(out: Path, bars: Bars, *, seed: int = 0) -> report.Report:
    """Run all steps from an empty folder to ``OUT/index.html``.

    An earlier call with the same ``out`` is resumed; after a complete call only the evaluation and
    the page are repeated.

    Args:
        out: Output folder.
        bars: Receive the progress.
        seed: Seed of the world and of the training.

    Raises:
        ConfigError: If ``out`` has another demo.
        LensCacheError: If a step fails.
    """
    clock = _Clock(out / TIMES_FILE)
    bars.message(f"demo: {sum(IMAGES.values())} drawn images; all files in {out}")
    bars.message("1/6 world: draw images, write instructions")
    clock.once("world", lambda: _draw(out / "world", seed, bars))
    bars.message("2/6 extract: features of the frozen models")
    settings = extract_config(out / "world")
    clock.once("extract", lambda: _extract(out / "store", settings, bars))
    store = Store(out / "store")
    training = load_config(TrainConfig, None, [*TRAINING, f"trainer.seed={seed}"])
    bars.message(f"3/6 train: {training.trainer.max_steps} steps from the store")
    with bars.paused():
        clock.once("train", lambda: _train(out / "run", store, training))
    return _evaluate(out, settings, store, seed, clock, bars)


def _evaluate(
    out: Path, settings: ExtractConfig, store: Store, seed: int, clock: _Clock, bars: Bars
) -> report.Report:
    """Measure the trained run and the baselines, and write the page."""
    run = Run.open(out / "run")
    bars.message(f"4/6 evaluate: on {' and '.join(MEASURED)}")
    evaluations = clock.time(
        "evaluate",
        lambda: {
            split: evaluate(run, store, split, num_panels=0, progress=bars.progress)
            for split in MEASURED
        },
    )
    bars.message("5/6 baselines: the same frozen models without LENS")
    without_lens = clock.time(
        "baselines",
        lambda: baselines(
            store, MEASURED, development=DEVELOPMENT, seed=seed, progress=bars.progress
        ),
    )
    bars.message("6/6 page: panels, swap test, all results on one page")
    job = Job.of_run(run, store, MEASURED[0])
    shown = clock.time("panels", lambda: gallery(job, progress=bars.progress))
    page = Page(
        version=__version__,
        seed=seed,
        images=IMAGES,
        queries=store.plan.splits(),
        layers=settings.encoders.llava.layers,
        cost=estimate_cost(Encoders.resolve(settings), store.catalogue),
        seconds={name: clock.seconds[name] for name in STEPS if name in clock.seconds},
        training=run.config,
        charts=_charts(run),
        evaluations=evaluations,
        baselines=without_lens,
        gallery=shown,
        world=out / "world",
        store=out / "store",
        run=out / "run",
    )
    (out / PAGE_FILE).write_text(render(page), encoding="utf-8")
    return _report(out / PAGE_FILE, evaluations, without_lens, shown)


def _charts(run: Run) -> dict[str, str]:
    log = read_log(run.folder)
    found = {title: chart(log, names) for title, names in _CHARTS.items()}
    return {title: svg for title, svg in found.items() if svg is not None}


class _Clock:
    """Seconds of each step, stored in a file: a step of an earlier call keeps its time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def time(self, name: str, step: Callable[[], T]) -> T:
        """Run a step that every call repeats."""
        start = time.perf_counter()
        result = step()
        self._note(name, time.perf_counter() - start)
        return result

    def once(self, name: str, step: Callable[[], bool]) -> None:
        """Run a step that returns whether it had anything to do."""
        start = time.perf_counter()
        if step():
            self._note(name, self.seconds.get(name, 0.0) + time.perf_counter() - start)

    def _note(self, name: str, seconds: float) -> None:
        self.seconds[name] = seconds
        self._path.write_text(json.dumps(self.seconds, indent=2) + "\n")


def _draw(folder: Path, seed: int, bars: Bars) -> bool:
    new = not folder.exists()
    try:
        write_world(folder, IMAGES, seed=seed, progress=bars.progress)
    except DatasetError as error:
        raise _other_demo(error) from None
    return new


def _extract(root: Path, settings: ExtractConfig, bars: Bars) -> bool:
    try:
        summary = extract(root, settings, bars, on_ray(None))
    except StoreMismatchError as error:
        raise _other_demo(error) from None
    bars.message(report_extraction(root, summary).text)
    return bool(summary.reports)


def _train(folder: Path, store: Store, settings: TrainConfig) -> bool:
    """Train or resume; return whether a step was done. A finished run is not changed."""
    last = folder / CHECKPOINTS / "last.ckpt"
    before = last.stat().st_mtime_ns if last.exists() else None
    train(folder, store.root, settings, resume=(folder / CHECKPOINTS).exists())
    return last.stat().st_mtime_ns != before


def _other_demo(error: Exception) -> ConfigError:
    return ConfigError(
        f"{error}; or choose another folder for this demo with --out (OUT= for make)"
    )


def _report(
    page: Path, evaluations: dict[str, Evaluation], without_lens: Baselines, shown: Gallery
) -> report.Report:
    """Report the scores of LENS and of the baselines, and where the page is."""
    document = {
        "page": str(page),
        "evaluations": {split: asdict(found) for split, found in evaluations.items()},
        "baselines": asdict(without_lens),
        "swap_test": {"split": shown.split, "pairs": shown.pairs, "passed": shown.passed},
    }
    text = []
    for split, found in evaluations.items():
        text.append(f"{split}: {found.overall.queries} instructions")
        text.append(f"  {'LENS':<16} gIoU {100 * found.overall.giou.value:5.1f}")
        for line in without_lens.lines:
            giou = line.splits[split].overall.giou.value
            text.append(f"  {line.name:<16} gIoU {100 * giou:5.1f}   {line.note}")
    text.append(f"swap test: {shown.passed} of {shown.pairs} pairs of {shown.split} passed")
    text.append(f"page {page}")
    return report.Report(document, "\n".join(text))
