"""The settings of a run that is resumed."""

from __future__ import annotations

import dataclasses

from lens_cache.config.train import TrainConfig
from lens_cache.errors import ConfigError
from lens_cache.training.run import CONFIG_FILE, Run


def resumed_settings(run: Run, config: TrainConfig) -> TrainConfig:
    """Return the settings of a resumed run; refuse those that differ from the run's.

    Empty splits and the division of a step into batches are those that the run has chosen. A run
    without a checkpoint starts at step 0.

    Raises:
        ConfigError: If settings differ that affect the weights.
    """
    before = run.config.batch
    splits = {
        name: getattr(config.batch, name) or getattr(before, name)
        for name in ("split", "validation_split")
    }
    batch = dataclasses.replace(config.batch, **splits)
    step = batch.images * batch.accumulate
    if batch.fit_memory and step == before.images * before.accumulate:
        batch = dataclasses.replace(batch, images=before.images, accumulate=before.accumulate)
    config = dataclasses.replace(config, batch=batch)
    if _fixed_settings(run.config) != _fixed_settings(config):
        raise ConfigError(
            f"resuming {run.folder}: the settings differ from those in {run.folder / CONFIG_FILE}; "
            "only trainer.max_steps may change, and settings that do not affect the weights "
            "(trainer.log_every, logger and pictures; batch.loader_workers unless "
            "batch.order=stream); train a new run for anything else"
        )
    return config


def _fixed_settings(config: TrainConfig) -> TrainConfig:
    """Return the settings with those that a resumed run may change set to constants."""
    trainer = dataclasses.replace(
        config.trainer, max_steps=1, log_every=1, logger="csv", pictures=0
    )
    batch = config.batch
    if batch.order == "random":
        batch = dataclasses.replace(batch, loader_workers=0)
    return dataclasses.replace(config, trainer=trainer, batch=batch)
