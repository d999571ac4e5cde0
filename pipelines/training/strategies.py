"""Strategies for several devices, and the limits of each."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    Strategy,
)

from lens_cache.config.train import TrainConfig, TrainerConfig
from lens_cache.errors import ConfigError
from lens_cache.training.run import WEIGHTS_FILE
from pipelines.training.module import LensModule

LightningPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]


def require_strategy(config: TrainConfig) -> None:
    """Refuse a strategy that cannot run.

    Raises:
        ConfigError: If a package or a GPU is missing, or settings exclude each other.
    """
    strategy, doing = config.trainer.strategy, "setting up trainer.strategy="
    if strategy in ("fsdp", "deepspeed_stage_2"):
        for name, found, others in (
            ("optimizer.states", config.optimizer.states == "8bit", "float32"),
            ("trainer.precision", config.trainer.precision == "16-mixed", "bf16-mixed or 32-true"),
        ):
            if found:
                raise ConfigError(
                    f"{doing}{strategy}: it does not support this {name}; set it to {others}, or "
                    "set trainer.strategy=ddp"
                )
    if strategy == "deepspeed_stage_2":
        if find_spec("deepspeed") is None:
            raise ConfigError(
                f"{doing}{strategy}: the package deepspeed is not installed; run `pip install "
                "deepspeed`, or set trainer.strategy=fsdp, which shards more"
            )
        if config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
            raise ConfigError(
                f"{doing}{strategy}: it needs GPUs, found none; set trainer.strategy=ddp"
            )


def strategy_of(settings: TrainerConfig) -> str | Strategy:
    """Return Lightning's strategy for all devices of all machines."""
    gpus = 0 if settings.accelerator == "cpu" else torch.cuda.device_count()
    devices = (settings.devices or max(1, gpus)) * settings.num_nodes
    if settings.strategy == "fsdp":
        return ModelParallelStrategy(
            data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    if settings.strategy == "ddp" or (settings.strategy == "auto" and devices > 1):
        # Without views every gradient is stored twice.
        return DDPStrategy(gradient_as_bucket_view=True)
    if settings.strategy == "deepspeed_stage_2":
        return _ZeroStage2(stage=2)
    return settings.strategy


def precision_of(settings: TrainerConfig, module: LensModule) -> LightningPrecision:
    """Return Lightning's precision; for DeepSpeed, let the module autocast instead.

    With ``bf16-mixed`` DeepSpeed casts all weights to bfloat16, and so coordinates too.
    """
    if settings.strategy != "deepspeed_stage_2" or settings.precision == "32-true":
        return settings.precision
    module.precision_context = torch.autocast("cuda", torch.bfloat16)
    return "32-true"


class _ZeroStage2(DeepSpeedStrategy):
    """DeepSpeed ZeRO stage 2; adds the weights in our format to its checkpoint folder.

    Every process has all weights; only gradients and optimizer states are sharded.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        super().save_checkpoint(checkpoint, filepath, storage_options)
        if self.global_rank == 0:
            assert self.lightning_module is not None
            weights = self.lightning_module.state_dict()
            torch.save({"state_dict": weights}, Path(filepath) / WEIGHTS_FILE)


def require_compiler() -> None:
    """Check that torch.compile works.

    Raises:
        ConfigError: If it cannot compile a kernel; the message has its error.
    """

    def probe(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.compile(probe)(torch.ones(4, device=device))
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"setting up trainer.compile: torch.compile failed for {device} "
            f"({type(error).__name__}: {first}); install a C++ compiler such as g++, or set "
            "trainer.compile=false"
        ) from None
