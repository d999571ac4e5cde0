"""What every way to train has in common: the LENS modules with random weights, and a step."""

from __future__ import annotations

import torch
from torch import Tensor

from lens_cache.config import LossConfig, ModelConfig, OptimizerConfig
from lens_cache.data import Batch
from lens_cache.encoders.benchmark_models import PairSizes
from lens_cache.encoders.sam_checkpoint import PHASE_TWO
from lens_cache.encoders.small_llava import llava_config
from lens_cache.frozen import FrozenParts
from lens_cache.losses import LensLoss
from lens_cache.models.decoder import build_sam_modules
from lens_cache.models.lens import LensModel
from lens_cache.optimizer import build_optimizer
from pipelines.benchmark.random_store import LAYER


class Trainee:
    """The LENS modules, their optimizer and their loss; every way takes its steps with them."""

    def __init__(self, sizes: PairSizes, loss: LossConfig, device: str) -> None:
        model = LensModel(ModelConfig(layer=LAYER, warm_start=False), frozen_parts(sizes))
        self.model, self.device = model.to(device).train(), device
        self._loss = LensLoss(loss, side=sizes.sam.image_size)
        self._optimizer = build_optimizer(model.parameters(), OptimizerConfig())

    def step(self, batch: Batch) -> None:
        """Take one optimizer step in bfloat16 over float32 weights, as a training does."""
        self.loss(batch).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def loss(self, batch: Batch) -> Tensor:
        """Return eq. 7 of a batch."""
        features = batch.features.to(self.device, torch.float32)
        with torch.autocast(torch.device(self.device).type, torch.bfloat16):
            answer = self.model(features)
        total: Tensor = self._loss(answer, batch.targets.to(self.device)).total
        return total


def frozen_parts(sizes: PairSizes, seed: int = 0) -> FrozenParts:
    """Return what a LENS model without warm start needs of a LLaVA and a SAM of these sizes."""
    torch.manual_seed(seed)
    side = sizes.llava.image_side // sizes.llava.patch_size
    modules = zip(PHASE_TWO, build_sam_modules(sizes.sam), strict=True)
    return FrozenParts(
        text_config=llava_config(sizes.llava, num_tokens=1).text_config.to_dict(),
        grid=(side, side),
        sam_architecture=sizes.sam,
        decoder_layers={},
        sam={
            f"{prefix}{name}": value
            for prefix, module in modules
            for name, value in module.state_dict().items()
        },
    )
