"""Three ways to extract the same features of the same images with the same random weights.

- ``per instruction``: as the authors' code does it, the whole MLLM with all its hidden states and
  SAM for every (image, instruction);
- ``early exit``: the same, with the MLLM cut off at the tapped layer;
- ``lens-cache``: the engine of an extraction, once per image, results in host memory.

Images are decoded and resized beforehand: all ways do that in threads next to the models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lens_cache.encoders.sam import PIXEL_MEAN, PIXEL_STD
from lens_cache.extraction.estimate import decoder_flops, sam_flops, vision_flops
from lens_cache.extraction.threads import batched
from lens_cache.features.transfer import Transfer
from pipelines.benchmark.engine import (
    EngineRun,
    Features,
    engine_flops,
    random_pictures,
    random_texts,
)
from pipelines.benchmark.models import Pair, PairSizes


@dataclass(frozen=True)
class Way:
    """One way to extract.

    Attributes:
        name: Its name.
        run: Extracts every image; returns the features of the last (image, instruction).
        flops: Floating-point operations of the way; padding is not counted.
        modules: The models that it needs in memory.
    """

    name: str
    run: Callable[[], Features]
    flops: float
    modules: Sequence[torch.nn.Module]


class Work:
    """Random images with random questions, and the three ways to extract them."""

    def __init__(
        self, pair: Pair, sizes: PairSizes, *, images: int, instructions: int, batch: int
    ) -> None:
        """Generate images and questions.

        Args:
            pair: The models.
            sizes: Their sizes.
            images: Number of images.
            instructions: Questions per image.
            batch: Batch size: pairs of (image, instruction); in the last way images.
        """
        self._pair, self._sizes, self._batch = pair, sizes, batch
        self._pictures = random_pictures(pair.llava, sizes.sam.image_size, images)
        self._texts = random_texts(pair.llava, [instructions] * images)
        device = pair.llava.device
        self._transfer = Transfer(device)
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD)
        )
        self._engine = EngineRun(pair.llava, pair.sam, self._pictures, self._texts, batch)

    def ways(self) -> list[Way]:
        """Return the three ways; the others are compared with the first."""
        pair = self._pair
        whole, early, ours = self._flops()
        return [
            Way("per instruction", self._whole, whole, [pair.whole, pair.plain_sam]),
            Way("early exit", self._early, early, [pair.early, pair.plain_sam]),
            Way("lens-cache", self._engine.run, ours, [pair.llava.model, pair.sam.model]),
        ]

    @torch.inference_mode()
    def _whole(self) -> Features:
        def states(inputs: Mapping[str, Tensor]) -> Tensor:
            # Logits of all tokens would be wasted work.
            output = self._pair.whole(
                **inputs, use_cache=False, output_hidden_states=True, logits_to_keep=1
            )
            hidden: Tensor = output.hidden_states[self._pair.layer]
            return hidden

        return self._every_pair(states)

    @torch.inference_mode()
    def _early(self) -> Features:
        def states(inputs: Mapping[str, Tensor]) -> Tensor:
            hidden: Tensor = self._pair.early(**inputs, use_cache=False).last_hidden_state
            return hidden

        return self._every_pair(states)

    def _every_pair(self, states: Callable[[Mapping[str, Tensor]], Tensor]) -> Features:
        """Run MLLM and SAM for every (image, instruction), in padded batches of pairs."""
        prompt = self._pair.llava.prompt
        shared = [*prompt.prefix_ids, *[prompt.image_token_id] * prompt.num_image_tokens]
        pairs = [(i, text) for i, texts in enumerate(self._texts) for text in texts]
        found: Features = {}
        for chunk in batched(pairs, self._batch):
            rows = [torch.tensor([*shared, *text]) for _, text in chunk]
            seen = [torch.ones_like(row) for row in rows]
            pictures = [self._pictures[i] for i, _ in chunk]
            pixels = torch.stack([p.pixels for p in pictures if p.pixels is not None])
            hidden = states(
                {
                    "input_ids": self._transfer.upload(pad_sequence(rows, batch_first=True)),
                    "attention_mask": self._transfer.upload(pad_sequence(seen, batch_first=True)),
                    "pixel_values": self._transfer.upload(pixels).to(self._pair.sam.dtype),
                }
            )
            squares = self._transfer.upload(
                torch.from_numpy(np.stack([p.square for p in pictures]))
            )
            normalised = (squares.permute(0, 3, 1, 2) - self._mean) / self._std
            embeddings = self._pair.plain_sam(normalised.to(self._pair.sam.dtype))
            found = {
                "states": hidden[-1, len(prompt.prefix_ids) : len(rows[-1])],
                "embedding": embeddings[-1],
            }
        return {name: value.cpu() for name, value in found.items()}

    def _flops(self) -> tuple[float, float, float]:
        """Return the floating-point operations of each way."""
        vision, text = self._pair.configs
        alone_on = vision_flops(vision) + sam_flops(self._sizes.sam)
        prompt = self._pair.llava.prompt
        shared = len(prompt.prefix_ids) + prompt.num_image_tokens
        layer, depth = self._pair.layer, int(text["num_hidden_layers"])
        every = [len(words) for asked in self._texts for words in asked]

        def alone(layers: int) -> float:
            return sum(alone_on + decoder_flops(text, layers, shared, [n]) for n in every)

        ours = engine_flops(self._pair.llava, self._pair.configs, self._sizes.sam, self._texts)
        return alone(depth), alone(layer), ours
