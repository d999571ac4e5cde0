"""Phase 2: fit head, keypoint and descriptor modules from a store, and nothing else."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import (
    Callback,
    LearningRateMonitor,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from lens_cache.config import TrainConfig, TrainerConfig
from lens_cache.config_file import load_config
from lens_cache.data import (
    Batch,
    FeatureDataset,
    evaluation_draws,
    training_loader,
)
from lens_cache.errors import CheckpointError, ConfigError, StoreMismatchError
from lens_cache.run import CHECKPOINTS, CONFIG_FILE, Run, begin_run
from lens_cache.sampling import Draw, Share
from lens_cache.store.reader import Store
from lens_cache.streaming import require_stream, streaming_loader
from lens_cache.training import LensModule
from pipelines.provenance import record_run


class StoreDataModule(LightningDataModule):
    """Serves a store's queries; goes on after a resume with the batches not seen yet."""

    def __init__(self, store: Store, config: TrainConfig, layer: int) -> None:
        super().__init__()
        self._store, self._config, self._layer = store, config, layer
        self._start = 0

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the training stream of this rank."""
        assert self.trainer is not None
        batch = self._config.batch
        loader = streaming_loader if batch.order == "stream" else training_loader
        return loader(
            self._store,
            layer=self._layer,
            loss=self._config.loss,
            batch=batch,
            share=Share(
                # One batch more than is trained on: had Lightning seen the last one, a run could
                # not be resumed with more steps.
                num_batches=self._config.trainer.max_steps * batch.accumulate + 1,
                seed=self._config.trainer.seed,
                rank=self.trainer.global_rank,
                world=self.trainer.world_size,
                start=self._start,
            ),
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Return the validation queries, each owned by exactly one rank."""
        assert self.trainer is not None
        batch = self._config.batch
        if batch.validation_split is None:
            return []
        draws = evaluation_draws(self._store, batch.validation_split, batch.limit_validation_images)
        mine = draws[self.trainer.global_rank :: self.trainer.world_size]
        dataset = FeatureDataset(self._store, self._layer, self._config.loss)
        sampler: list[list[Draw]] = [[draw] for draw in mine]
        return [
            DataLoader(
                dataset,
                batch_sampler=sampler,
                collate_fn=FeatureDataset.collate,
                num_workers=batch.loader_workers,
                multiprocessing_context=self._store.worker_context
                if batch.loader_workers
                else None,
            )
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches the saved weights have seen."""
        assert self.trainer is not None
        return {"batches": self.trainer.global_step * self._config.batch.accumulate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind the batches already seen."""
        self._start = int(state_dict["batches"])


class _Bar(TQDMProgressBar):
    """A bar that ends where the training does, and begins where a resumed one does."""

    @property
    def total_train_batches(self) -> int:
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Show the steps that an earlier run has done."""
        super().on_train_start()
        self.train_progress_bar.reset(total=self.total_train_batches)
        self.train_progress_bar.initial = trainer.global_step * trainer.accumulate_grad_batches


def train(folder: Path, store_path: Path, config: TrainConfig, *, resume: bool) -> Run:
    """Train into a run folder.

    Args:
        folder: The run; created if need be.
        store_path: A complete store.
        config: The settings.
        resume: Go on from the run's last checkpoint, with the same settings but for
            ``trainer.max_steps``.

    Raises:
        LensCacheError: If the store or the settings do not fit, or the folder holds another run.
    """
    store = Store(store_path)
    layer = _layer(config, store)
    if config.batch.order == "stream":
        require_stream(store, config.batch)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, layer=layer))
    checkpoint = _last_checkpoint(folder, config) if resume else None
    if not resume and (folder / CHECKPOINTS).exists():
        raise ConfigError(
            f"training into {folder}: it already holds a run; add --resume to go on with it, or "
            "choose another folder"
        )
    if resume:
        Run.open(folder).require_features_of(store)
    frozen = store.frozen()
    begin_run(folder, store, frozen)
    record_run(folder, config)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    torch.manual_seed(config.trainer.seed)
    # Lightning's progress bar writes to stdout, which is for results.
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        _quieten()
        module = LensModule(config, frozen, store)
        data = StoreDataModule(store, config, layer)
        _trainer(folder, config).fit(module, datamodule=data, ckpt_path=checkpoint)
    return Run.open(folder)


def _layer(config: TrainConfig, store: Store) -> int:
    """Return the layer the head reads; refuse one the store does not hold (I5)."""
    layer = config.model.layer
    if layer is None and len(store.layers) == 1:
        layer = store.layers[0]
    if layer is None or layer not in store.layers:
        wanted = "names none" if layer is None else f"asks for layer {layer}"
        raise StoreMismatchError(
            f"training from {store.root}: it holds layers {list(store.layers)}, the configuration "
            f"{wanted}; set model.layer to one of them, or extract with --set "
            "encoders.llava.layers=[...]"
        )
    return layer


def _last_checkpoint(folder: Path, config: TrainConfig) -> Path:
    """Return the checkpoint to go on from; refuse other settings than the run's."""
    path = folder / CHECKPOINTS / "last.ckpt"
    if not path.exists():
        raise CheckpointError(
            f"resuming {folder}: there is no {CHECKPOINTS}/last.ckpt; train without --resume"
        )
    before = load_config(TrainConfig, folder / CONFIG_FILE)
    same_length = dataclasses.replace(
        before,
        trainer=dataclasses.replace(before.trainer, max_steps=config.trainer.max_steps),
    )
    if same_length != config:
        raise ConfigError(
            f"resuming {folder}: the settings differ from those in {folder / CONFIG_FILE}; only "
            "trainer.max_steps may change, start a new run for anything else"
        )
    return path


def _trainer(folder: Path, config: TrainConfig) -> Trainer:
    settings, validates = config.trainer, config.batch.validation_split is not None
    return Trainer(
        default_root_dir=folder,
        logger=CSVLogger(folder, name="logs", version=_next_log(folder)),
        callbacks=_callbacks(folder, settings, validates),
        max_steps=settings.max_steps,
        max_epochs=1,
        val_check_interval=settings.validate_every * config.batch.accumulate if validates else None,
        check_val_every_n_epoch=None if validates else 1,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if validates else 0,
        accumulate_grad_batches=config.batch.accumulate,
        gradient_clip_val=config.optimizer.gradient_clip or None,
        precision=settings.precision,
        accelerator=settings.accelerator,
        devices=settings.devices or "auto",
        strategy=settings.strategy,
        use_distributed_sampler=False,
        log_every_n_steps=settings.log_every,
        enable_model_summary=False,
    )


class _LastCheckpoint(Callback):
    """Writes ``last.ckpt`` every so many optimizer steps, and when the last one is done."""

    def __init__(self, path: Path, every: int) -> None:
        self._path, self._every = path, every
        self._saved = 0

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Note where a resumed run begins."""
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save if this batch ended such a step."""
        step = trainer.global_step
        if step != self._saved and (step % self._every == 0 or step == trainer.max_steps):
            self._saved = step
            trainer.save_checkpoint(self._path)


def _callbacks(folder: Path, settings: TrainerConfig, validates: bool) -> list[Callback]:
    """Return progress, learning rate, ``last.ckpt`` and, with validation, ``best.ckpt``."""
    callbacks: list[Callback] = [
        # A log file would hold a line per step.
        _Bar(refresh_rate=1 if sys.stderr.isatty() else settings.log_every),
        LearningRateMonitor("step"),
        _LastCheckpoint(folder / CHECKPOINTS / "last.ckpt", settings.validate_every),
    ]
    if validates:
        callbacks.append(
            ModelCheckpoint(
                folder / CHECKPOINTS,
                filename="best",
                monitor="val/giou",
                mode="max",
                save_on_train_epoch_end=False,
                enable_version_counter=False,
            )
        )
    return callbacks


def _next_log(folder: Path) -> str:
    """Return the name of a new log folder: every resume writes its own ``metrics.csv``."""
    logs = folder / "logs"
    return f"{len(list(logs.iterdir())) if logs.exists() else 0:03d}"


def _quieten() -> None:
    """Leave out what Lightning says that no user needs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*transfer_batch_to_device.*")
    warnings.filterwarnings("ignore", message=".*treespec.*")
    # Each loader process knows its own share of a stream.
    warnings.filterwarnings("ignore", message=".*`IterableDataset` has `__len__` defined.*")
