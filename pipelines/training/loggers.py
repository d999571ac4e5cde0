"""Loggers of a training run: always CSV, and TensorBoard or W&B if configured."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from PIL.Image import Image

from lens_cache.config.train import TrainerConfig
from lens_cache.errors import ConfigError


def require_logger(settings: TrainerConfig) -> None:
    """Check that the package of the logger is installed.

    Raises:
        ConfigError: If it is not.
    """
    if settings.logger != "csv" and find_spec(settings.logger) is None:
        raise ConfigError(
            f"setting up trainer.logger={settings.logger}: the package {settings.logger} is not "
            "installed; run `pip install 'lens-cache[log]'`, or set trainer.logger=csv"
        )


def loggers(folder: Path, settings: TrainerConfig) -> list[Logger]:
    """Return the loggers of a run; each resume writes a new ``logs/NNN``."""
    logs = folder / "logs"
    number = f"{len(list(logs.iterdir())) if logs.exists() else 0:03d}"
    found: list[Logger] = [CSVLogger(folder, name="logs", version=number)]
    if settings.logger == "tensorboard":
        found.append(TensorBoardLogger(folder, name="tensorboard", version=number))
    if settings.logger == "wandb":
        found.append(WandbLogger(name=folder.name, save_dir=folder, project="lens-cache"))
    return found


def log_picture(logger: Any, name: str, picture: Image, step: int) -> None:
    """Log an image to TensorBoard or W&B; do nothing for other loggers."""
    if isinstance(logger, TensorBoardLogger):
        pixels = np.asarray(picture.convert("RGB"))
        logger.experiment.add_image(name, pixels, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [picture], step=step)
