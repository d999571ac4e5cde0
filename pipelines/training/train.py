"""Phase 2: train head, keypoints and descriptor from a store."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import warnings
from pathlib import Path

import torch
from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_only

from lens_cache.config.train import TrainConfig
from lens_cache.errors import ConfigError, StoreMismatchError, one_line
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.store.store import Store
from lens_cache.training.losses import require_smooth
from lens_cache.training.not_finite import FAILED_BATCH, NotFiniteError
from lens_cache.training.optimizer import require_states
from lens_cache.training.run import (
    CHECKPOINTS,
    Run,
    begin_run,
    require_frozen_fits,
    used_shards,
)
from lens_cache.training.splits import require_clean, trained_images, with_splits
from lens_cache.training.streaming import require_stream
from pipelines.interrupt import Stop, stop_on_signals
from pipelines.provenance import record_run
from pipelines.training.callbacks import callbacks
from pipelines.training.card import with_fitting_batches
from pipelines.training.data_module import StoreDataModule
from pipelines.training.last_checkpoint import WholeCheckpoints
from pipelines.training.loggers import loggers, require_logger
from pipelines.training.module import LensModule
from pipelines.training.resume import resumed_settings
from pipelines.training.run_report import write_run_report
from pipelines.training.strategies import (
    precision_of,
    require_compiler,
    require_strategy,
    strategy_of,
)
from pipelines.training.throughput import WaitingTime


def train(folder: Path, store_path: Path, config: TrainConfig, *, resume: bool) -> Run:
    """Train into a run folder.

    Args:
        folder: The run folder; created if it does not exist.
        store_path: A store; must be complete unless ``batch.incomplete_store`` is ``use``.
        config: The settings.
        resume: Resume from the run's last checkpoint. Only ``trainer.max_steps`` and settings
            that do not affect the weights may differ from those of the run.

    SIGINT and SIGTERM finish the step in progress and write ``last.ckpt``; a second signal stops at
    once.

    Raises:
        Interrupted: If SIGINT or SIGTERM stopped it.
        LensCacheError: If the store or the settings do not fit, or the folder is another run.
    """
    with stop_on_signals(_show, lambda: _steps_done(folder), "the current step") as stop:
        run = _train(folder, store_path, config, stop, resume=resume)
    if _is_first_process():
        write_run_report(run)
    return run


def _train(folder: Path, store_path: Path, config: TrainConfig, stop: Stop, *, resume: bool) -> Run:
    store = Store(
        store_path,
        incomplete=config.batch.incomplete_store == "use",
        # Shards extracted since then would change the order of the images.
        shards=used_shards(folder) if resume else None,
    )
    layer = _layer(config, store)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, layer=layer))
    if resume:
        before = Run.open(folder)
        config = resumed_settings(before, config)
        before.require_features_of(store)
    elif (folder / CHECKPOINTS).exists():
        raise ConfigError(
            f"training into {folder}: it already is a run; add --resume to resume it, or "
            "choose another folder"
        )
    else:
        config = dataclasses.replace(config, batch=with_splits(config.batch, store))
        require_clean(config.batch, store)
    _require(config, store)
    frozen = store.frozen()
    require_frozen_fits(store, frozen, layer)
    require_smooth(config, frozen.grid)
    if not resume:
        config = with_fitting_batches(config, store.plan, frozen, _tell)
    if _is_first_process():
        if not resume:
            begin_run(folder, store, frozen, trained_images(config.batch, store))
        record_run(folder, config)
        _report_shards(store)
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    torch.manual_seed(config.trainer.seed)
    # Lightning's progress bar writes to stdout, which is for results.
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr), stop.draining():
        _silence()
        _fit(folder, config, store, frozen, stop, resume=resume)
    return Run.open(folder)


def _show(line: str) -> None:
    print(f"\nlens-cache: {line}", file=sys.stderr)


def _steps_done(folder: Path) -> str:
    """Return in words which step a run has saved."""
    path = folder / CHECKPOINTS / "last.ckpt"
    if not path.exists():
        return f"{folder} has no checkpoint yet"
    if path.is_dir():  # DeepSpeed
        return f"{path} is saved"
    step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    return f"{path} is of step {step}"


def _report_shards(store: Store) -> None:
    if store.shards is not None:
        _tell(
            f"training on {len(store.shards)} of {store.catalogue.num_shards} shards of "
            f"{store.root}; its extraction has not finished"
        )


def _tell(line: str) -> None:
    """Print a line, in the process that writes the files."""
    if _is_first_process():
        print(f"lens-cache: {line}", file=sys.stderr)


def _require(config: TrainConfig, store: Store) -> None:
    """Refuse settings that cannot run, before anything is written."""
    require_strategy(config)
    require_logger(config.trainer)
    require_states(config.optimizer)
    if config.trainer.compile:
        require_compiler()
    if config.batch.order == "stream":
        require_stream(store, config.batch)


def _layer(config: TrainConfig, store: Store) -> int:
    """Return the layer the head reads; refuse one the store does not have (I5)."""
    layer = config.model.layer
    if layer is None and len(store.layers) == 1:
        layer = store.layers[0]
    if layer is None or layer not in store.layers:
        wanted = "no layer" if layer is None else f"layer {layer}"
        raise StoreMismatchError(
            f"training from {store.root}: the store has layers {list(store.layers)}, the settings "
            f"name {wanted}; set model.layer to one of them, or extract with --set "
            "encoders.llava.layers=[...]"
        )
    return layer


def _fit(
    folder: Path,
    config: TrainConfig,
    store: Store,
    frozen: FrozenParts,
    stop: Stop,
    *,
    resume: bool,
) -> None:
    """Train; save the batch if its loss is not finite."""
    last = folder / CHECKPOINTS / "last.ckpt"
    assert config.model.layer is not None
    module = LensModule(config, frozen, store)
    if config.trainer.checkpoint_activations:
        module.model.checkpoint_activations()
    if config.trainer.compile:
        module.model.compile_parts()
    data = StoreDataModule(store, config, config.model.layer)
    trainer = _trainer(folder, config, module, store, stop)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=last if resume and last.exists() else None)
    except SystemExit:  # Lightning's answer to KeyboardInterrupt
        raise KeyboardInterrupt from None
    except NotFiniteError as error:
        rank = trainer.global_rank
        name = f"{FAILED_BATCH}.pt" if rank == 0 else f"{FAILED_BATCH}_of_process_{rank}.pt"
        raise error.keep(folder / name) from None


def _trainer(
    folder: Path, config: TrainConfig, module: LensModule, store: Store, stop: Stop
) -> Trainer:
    settings = config.trainer
    validates = config.batch.validation_split is not None
    waiting = WaitingTime()
    try:
        trainer = Trainer(
            default_root_dir=folder,
            logger=loggers(folder, settings),
            callbacks=callbacks(folder, config, store, waiting, stop),
            plugins=[WholeCheckpoints()],
            profiler=waiting,
            max_steps=settings.max_steps,
            max_epochs=1,
            val_check_interval=settings.validate_every * config.batch.accumulate
            if validates
            else None,
            check_val_every_n_epoch=None if validates else 1,
            num_sanity_val_steps=0,
            limit_val_batches=1.0 if validates else 0,
            accumulate_grad_batches=config.batch.accumulate,
            gradient_clip_val=config.optimizer.gradient_clip or None,
            precision=precision_of(settings, module),
            accelerator=settings.accelerator,
            devices=settings.devices or "auto",
            num_nodes=settings.num_nodes,
            strategy=strategy_of(settings),
            use_distributed_sampler=False,
            log_every_n_steps=settings.log_every,
            enable_checkpointing=validates,
            enable_model_summary=False,
        )
        launcher = getattr(trainer.strategy, "cluster_environment", None)
        if launcher is not None:
            launcher.validate_settings(trainer.num_devices, trainer.num_nodes)
        return trainer
    except (MisconfigurationException, ValueError) as error:
        # ValueError: torchrun or srun started another number of processes.
        raise ConfigError(
            f"setting up the trainer for {settings.num_nodes} machines with "
            f"{settings.devices or 'all'} devices each: {one_line(error)}; set trainer.num_nodes "
            "and trainer.devices to what the launcher starts"
        ) from None


def _is_first_process() -> bool:
    """Whether this process writes the files of the run."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _silence() -> None:
    """Suppress messages of Lightning that do not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", message=".*transfer_batch_to_device.*")
    warnings.filterwarnings("ignore", message=".*treespec.*")
    # StoreDataModule is resumable: it starts after the batches already trained on.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
    # A warning of FSDP; nothing here writes into the outputs of a module.
    warnings.filterwarnings("ignore", message=".*returned a view tensor.*")
    # Each loader worker yields its own part of the stream.
    warnings.filterwarnings("ignore", message=".*`IterableDataset` has `__len__` defined.*")
