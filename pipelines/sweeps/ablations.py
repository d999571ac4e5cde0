"""The ablations from scratch: draw the world of shapes, extract the layers of all rows, sweep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lens_cache.assets import SHAPES_MODELS
from lens_cache.config.sweep import SweepConfig, row_settings
from lens_cache.errors import ConfigError
from lens_cache.evaluation.baseline_scores import Baselines, baselines
from lens_cache.store.store import Store
from lens_cache.toy.world import write_world
from pipelines.demo.shapes_settings import extract_config
from pipelines.extraction.extract import extract
from pipelines.extraction.job import Runner
from pipelines.extraction.report import extraction as report_extraction
from pipelines.progress import Reporter
from pipelines.sweeps.sweep import Outcome, run_sweep

# The split on which layer, rows and cut of the baselines are chosen.
DEVELOPMENT = "val"
# Images of each split.
COUNTS = {"train": 2000, "val": 100, "test": 200}


def ablate(
    config: SweepConfig,
    out: Path,
    reporter: Reporter,
    runner: Runner,
    *,
    seeds: int,
    steps: int | None = None,
    jobs: int = 1,
    counts: Mapping[str, int] = COUNTS,
    models: Path = SHAPES_MODELS,
) -> tuple[Outcome, Baselines]:
    """Sweep over a world that is drawn first; resumes an earlier call with the same ``out``.

    Args:
        config: The sweep; each of its rows names its layer.
        out: Output folder: ``world``, ``store`` and the files of the sweep.
        reporter: Receives the progress.
        runner: Runs the extraction.
        seeds: See ``run_sweep``.
        steps: See ``run_sweep``.
        jobs: See ``run_sweep``.
        counts: Images of each split of the world.
        models: Folder with ``llava`` and ``sam.pth``.

    Returns:
        The outcome of the sweep, and the baselines (the frozen models without LENS) on the split on
        which rows are compared.

    Raises:
        LensCacheError: If a step fails.
    """
    settings = extract_config(out / "world", layers_of(config), models)
    write_world(out / "world", counts, progress=reporter.progress)
    summary = extract(out / "store", settings, reporter, runner)
    reporter.message(report_extraction(out / "store", summary).text)
    outcome = run_sweep(config, out / "store", out, reporter, seeds=seeds, steps=steps, jobs=jobs)
    without_lens = baselines(
        Store(out / "store"),
        config.splits[:1],
        development=DEVELOPMENT,
        progress=reporter.progress,
    )
    return outcome, without_lens


def layers_of(config: SweepConfig) -> tuple[int, ...]:
    """Return the layers of all rows: one store has them all.

    Raises:
        ConfigError: If a row has no layer.
    """
    layers = {row.name: row_settings(config, row).model.layer for row in config.rows}
    unnamed = [name for name, layer in layers.items() if layer is None]
    if unnamed:
        raise ConfigError(
            f"extracting for the sweep {config.name}: row {unnamed[0]!r} has no layer; set "
            "model.layer in the base"
        )
    return tuple(sorted({layer for layer in layers.values() if layer is not None}))
