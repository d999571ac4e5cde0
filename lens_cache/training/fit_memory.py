"""How many images a batch may have in the memory of a GPU."""

from __future__ import annotations

import dataclasses

import torch

from lens_cache.config.train import BatchConfig, ModelConfig, OptimizerConfig
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.models.lens import LensModel

# float32 weights and gradients, and the two moments of AdamW.
_BYTES_PER_WEIGHT = {"float32": 16, "8bit": 10}
# Measured with LLaVA-1.5-7B on an H100: the rise of the peak from 2 to 20 images in a batch, for
# each channel of each token.
_BYTES_PER_CHANNEL = 215
# Memory in use over the peak of live tensors, in the same measurement: kernels, workspaces, and
# blocks that the allocator keeps.
_IN_USE = 1.3
# Of a loss at the resolution of the image, for each pixel of each query: counted.
_BYTES_PER_PIXEL = 20
_USABLE = 0.92  # of the card's memory; the rest is the driver's and other programs'
_TOKENS_PER_QUESTION = 40


def fit_batch(
    batch: BatchConfig,
    memory: int,
    model: ModelConfig,
    optimizer: OptimizerConfig,
    frozen: FrozenParts,
    pixels: int,
) -> BatchConfig:
    """Divide the images of a step into as few batches as fit in memory.

    Args:
        batch: Its ``images`` times ``accumulate`` are the images of a step on a device; the result
            has the same product.
        memory: Bytes of the device.
        model: Settings of the model.
        optimizer: Settings of the optimizer.
        frozen: Frozen parts of the store, which give the sizes of the model.
        pixels: Pixels in which the mask of a query is compared.

    Returns:
        At least one image in a batch, even if that does not fit either.
    """
    weights = _trained_weights(model, frozen) * _BYTES_PER_WEIGHT[optimizer.states]
    rows, columns = frozen.grid
    tokens = rows * columns + batch.queries_per_image * _TOKENS_PER_QUESTION
    image = tokens * int(frozen.text_config["hidden_size"]) * _BYTES_PER_CHANNEL
    image += batch.queries_per_image * pixels * _BYTES_PER_PIXEL
    fitting = (_USABLE * memory / _IN_USE - weights) / image
    step = batch.images * batch.accumulate
    images = max(n for n in range(1, step + 1) if step % n == 0 and (n == 1 or n <= fitting))
    return dataclasses.replace(batch, images=images, accumulate=step // images)


def _trained_weights(model: ModelConfig, frozen: FrozenParts) -> int:
    """Return the number of trained weights, without allocating them."""
    sam = {name: value.to("meta") for name, value in frozen.sam.items()}
    with torch.device("meta"):
        lens = LensModel(
            dataclasses.replace(model, warm_start=False), dataclasses.replace(frozen, sam=sam)
        )
    return sum(weight.numel() for weight in lens.parameters() if weight.requires_grad)
