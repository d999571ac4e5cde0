"""The Lightning module: training step, validation step, optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lens_cache.config.load import to_tree
from lens_cache.config.train import TrainConfig
from lens_cache.evaluation.mask_pairs import MaskPair, masks_of
from lens_cache.evaluation.metrics import MaskIoU
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.transfer import Transfer
from lens_cache.features.types import LensOutput
from lens_cache.models.lens import LensModel
from lens_cache.store.store import Store
from lens_cache.training.data import Batch
from lens_cache.training.loss_tally import Sums, Tally
from lens_cache.training.losses import LensLoss
from lens_cache.training.not_finite import (
    FiniteLosses,
    gradient_not_finite,
    not_finite,
    not_finite_elsewhere,
)
from lens_cache.training.optimizer import build_optimizer, learning_rate_factor


class LensModule(LightningModule):
    """Fits a ``LensModel`` to the masks of a store.

    The loss of an optimizer step is the mean of eq. 7 over all its questions: those of every
    accumulated batch on every device. DeepSpeed accumulates by itself and takes the mean over
    batches instead, even if they differ in their number of questions.

    Attributes:
        model: The model.
        precision_context: Entered around every forward pass; set if Lightning's own precision
            plugin is not used.
    """

    def __init__(self, config: TrainConfig, frozen: FrozenParts, store: Store) -> None:
        """Build the model; validation reads its masks from the store."""
        super().__init__()
        self.save_hyperparameters({"config": to_tree(config)})
        self.config, self._store = config, store
        self.model = LensModel(config.model, frozen)
        self.loss = LensLoss(config.loss, side=store.manifest.side)
        self.precision_context: AbstractContextManager[Any] = nullcontext()
        self._tally = Tally(store.plan)
        self._finite = FiniteLosses()
        self._norm = torch.tensor(0.0)
        self._since_log: Sums | None = None
        kinds = sorted(set(store.plan.queries["kind"].to_pylist()))
        self.iou = MaskIoU([*self._tally.datasets, *(f"kind/{kind}" for kind in kinds)])

    def configure_model(self) -> None:
        """Shard the weights if the strategy has a device mesh."""
        if self.device_mesh is not None:
            self.model.shard(self.device_mesh["data_parallel"])

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return eq. 7 for one batch, weighted by the batch's share of the step's questions.

        The random generator is seeded by batch and rank, so that a resumed run draws the same
        numbers as an uninterrupted one.
        """
        world, rank = self.trainer.world_size, self.global_rank
        torch.manual_seed(self.config.trainer.seed * 2**32 + batch_idx * world + rank)
        with self.precision_context:
            segmentation = self.model(batch.features)
        losses = self.loss(segmentation, batch.targets)
        self._finite.add(batch, losses, self._transfer)
        self._tally.add(batch.draws, losses, segmentation, batch.targets, self._transfer)
        total: Tensor = losses.total
        return total * (len(losses.each) / self._nominal) if self._rescales else total

    @cached_property
    def _transfer(self) -> Transfer:
        return Transfer(self.device)

    def _over_processes(self, values: Tensor) -> Tensor:
        """Return the sum of the values over all processes."""
        total: Tensor = self.trainer.strategy.reduce(values, reduce_op="sum")
        return total

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Rescale the gradient to that of the mean over questions, check and log the step.

        Here the host waits for the device, once.

        Raises:
            TrainingError: If a loss of any process, or the norm of the gradient, is not finite: the
                step would make every weight NaN. Raised in every process.
        """
        on_device = self._tally.take(self._over_processes)
        gradients = list(self._gradients())
        if self._rescales:
            # Lightning has divided by the number of batches, the strategy by that of devices.
            factor = self._nominal * self._num_batches / on_device.questions
            for gradient in gradients:
                gradient.mul_(factor)
        self._norm = get_total_norm(gradients)
        whole = self._norm.full_tensor() if isinstance(self._norm, DTensor) else self._norm
        sums, norm = on_device.read(whole.to(on_device.values.device))
        self._require_finite(sums, norm)
        values = {f"train/{name}": mean for name, mean in sums.losses(self.config.loss).items()}
        self._log_numbers(values)
        self._since_log = sums if self._since_log is None else self._since_log + sums
        if (self.global_step + 1) % self.config.trainer.log_every == 0:
            means = self._since_log.losses_by_dataset() | self._since_log.keypoints()
            if gradients:
                means["gradient_norm"] = norm
            self._log_numbers({f"train/{name}": mean for name, mean in means.items()})
            self._since_log = None

    def _require_finite(self, sums: Sums, norm: float) -> None:
        """Check the losses of all processes and the norm of the gradient.

        With ``16-mixed`` the norm may be infinite: the gradient scaler then skips the step.
        DeepSpeed has parts of the gradient only.
        """
        broken = self._finite.take()
        if not sums.are_finite:
            if broken is not None:
                raise not_finite(self.global_step, *broken, self._store)
            raise not_finite_elsewhere(self.global_step)
        may_be_infinite = (
            self.config.trainer.precision == "16-mixed"
            or self.trainer.strategy.handles_gradient_accumulation
        )
        if not (may_be_infinite or math.isfinite(norm)):
            raise gradient_not_finite(self.global_step)

    def _log_numbers(self, values: dict[str, float]) -> None:
        """Log numbers as tensors of the host: others go to the device, and back to be shown."""
        for name, value in values.items():
            self.log(name, torch.tensor(value), prog_bar=name == "train/total", batch_size=1)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients by norm; Lightning's own clipping refuses a fused AdamW."""
        # DeepSpeed clips by itself.
        if gradient_clip_val and not self.trainer.strategy.handles_gradient_accumulation:
            clip_grads_with_norm_(self.model.parameters(), gradient_clip_val, self._norm)

    @property
    def _rescales(self) -> bool:
        """Whether a step has several batches, weighted here by their number of questions."""
        return self._num_batches > 1 and not self.trainer.strategy.handles_gradient_accumulation

    @property
    def _num_batches(self) -> int:
        """Number of batches of an optimizer step, over all devices."""
        return self.config.batch.accumulate * self.trainer.world_size

    @property
    def _nominal(self) -> int:
        """Nominal number of questions of a batch; it keeps the loss scale and cancels out."""
        return self.config.batch.images * self.config.batch.queries_per_image

    def _gradients(self) -> Iterator[Tensor]:
        """Yield the gradients of the trained weights that have one."""
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                yield parameter.grad

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Add a batch to gIoU and cIoU, at the resolution of the images; return its masks."""
        with self.precision_context:
            segmentation: LensOutput = self.model(batch.features)
        threshold = self.config.mask_threshold
        pairs: list[MaskPair] = []
        for pair in masks_of(
            self._store.plan, self._store.manifest.side, batch.draws, segmentation, threshold
        ):
            query = self._store.plan.query(pair.query)
            groups = (query.dataset, f"kind/{query.kind}")
            self.iou.update(pair.prediction, pair.truth, pair.ignore, groups=groups)
            pairs.append(pair)
        return {"segmentation": segmentation, "pairs": pairs}

    def on_validation_epoch_end(self) -> None:
        """Log gIoU and cIoU over all ranks, of all queries, by dataset and by kind."""
        for name, value in self.iou.compute().items():
            self.log(f"val/{name}", value, prog_bar=name == "giou", sync_dist=False)
        self.iou.reset()

    def configure_optimizers(self) -> Any:
        """Return AdamW over the trained weights, with the schedule per optimizer step."""
        settings, steps = self.config.optimizer, self.config.trainer.max_steps
        optimizer = build_optimizer(
            self.model.parameters(), settings, fused=self.config.trainer.precision != "16-mixed"
        )
        schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, steps, settings))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move a batch in its stored dtype, then cast its features to float32 on the device."""
        return batch.to(device, torch.float32)
