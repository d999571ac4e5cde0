"""The Lightning module: one step, one validation, the optimiser. The only file with a trainer."""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lens_cache.config import OptimizerConfig, TrainConfig
from lens_cache.config_file import to_tree
from lens_cache.data import Batch
from lens_cache.errors import TrainingError
from lens_cache.evaluation import masks_of
from lens_cache.frozen import FrozenParts
from lens_cache.losses import LensLoss
from lens_cache.metrics import MaskIoU
from lens_cache.models.lens import LensModel
from lens_cache.store.reader import Store


class LensModule(LightningModule):
    """Fits a ``LensModel`` to the masks of a store."""

    def __init__(self, config: TrainConfig, frozen: FrozenParts, store: Store) -> None:
        """Build the model; the store serves validation with its masks."""
        super().__init__()
        self.save_hyperparameters({"config": to_tree(config)})
        self.config, self._store = config, store
        self.model = LensModel(config.model, frozen)
        self.loss = LensLoss(config.loss, side=store.manifest.side)
        self.iou = MaskIoU()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return eq. 7 for one batch.

        The random generator is seeded by step and rank, so that a resumed run drops what an
        uninterrupted one would have dropped.

        Raises:
            TrainingError: If the loss is not finite.
        """
        world, rank = self.trainer.world_size, self.global_rank
        torch.manual_seed(self.config.trainer.seed * 2**32 + batch_idx * world + rank)
        segmentation = self.model(batch.features)
        loss = self.loss(segmentation, batch.targets)
        count = segmentation.grounding_map.shape[0]
        for name in ("total", "dice", "bce", "attention"):
            self.log(
                f"train/{name}",
                getattr(loss, name).detach(),
                batch_size=count,
                prog_bar=name == "total",
            )
        total: Tensor = loss.total
        if not torch.isfinite(total):
            parts = ", ".join(
                f"{name} {getattr(loss, name).item():g}" for name in ("dice", "bce", "attention")
            )
            raise TrainingError(
                f"training step {self.global_step}: the loss is not finite ({parts}); lower "
                "optimizer.lr, and go on from the last checkpoint in a new run or start anew"
            )
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to gIoU and cIoU, at the resolution of the images."""
        segmentation = self.model(batch.features)
        for sample in masks_of(self._store, batch.draws, segmentation, self.config.mask_threshold):
            self.iou.update(sample.prediction, sample.truth, sample.ignore)

    def on_validation_epoch_end(self) -> None:
        """Log gIoU and cIoU over all ranks."""
        values = self.iou.compute()
        self.log("val/giou", values["giou"], prog_bar=True, sync_dist=False)
        self.log("val/ciou", values["ciou"], sync_dist=False)
        self.iou.reset()

    def configure_optimizers(self) -> Any:
        """Return AdamW over what is trained, with the schedule per optimizer step."""
        settings = self.config.optimizer
        optimizer = torch.optim.AdamW(
            [parameter for parameter in self.model.parameters() if parameter.requires_grad],
            lr=settings.lr,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
        steps = self.config.trainer.max_steps
        schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, settings))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch; features become float32, whatever precision they are stored in."""
        return Batch(
            draws=batch.draws,
            features=batch.features.to(device, torch.float32),
            targets=batch.targets.to(device),
        )


def learning_rate_factor(step: int, max_steps: int, settings: OptimizerConfig) -> float:
    """Return what the learning rate is multiplied with at an optimizer step.

    Linear from 0 over the warm-up, then linear to 0 at the end (LISA's WarmupDecayLR), or constant.
    """
    if step < settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.decay == "constant":
        return 1.0
    left = max_steps - step
    return max(0.0, left / max(1, max_steps - settings.warmup_steps))
