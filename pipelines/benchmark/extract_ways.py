"""Three ways to extract the same features of the same images with the same random weights.

- ``per instruction``: as the authors' code does it, the whole MLLM with all its hidden states and
  SAM for every (image, instruction);
- ``early exit``: the same, with the MLLM cut off at the tapped layer;
- ``lens-cache``: the engine of an extraction, once per image, results in host memory.

Images are decoded and resized beforehand: all ways do that in threads next to the models.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lens_cache.encoders.sam import PIXEL_MEAN, PIXEL_STD
from lens_cache.encoders.transfer import Transfer
from lens_cache.errors import ExtractionError
from lens_cache.extraction.batch_runner import BatchRunner, Flight
from lens_cache.extraction.estimate import decoder_flops, sam_flops, vision_flops
from lens_cache.extraction.feature_models import HiddenStates, ImageEmbeddings, Picture
from lens_cache.extraction.threads import batched
from lens_cache.store.layout import array_name
from pipelines.benchmark.models import Pair, PairSizes

SHORTEST, LONGEST = 20, 40  # tokens of a question
_IN_FLIGHT = 2

Features = dict[str, Tensor]


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
        rng = np.random.default_rng(0)
        side, words = sizes.sam.image_size, len(pair.llava.prompt.processor.tokenizer)
        squares = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(images)]
        self._pictures = [Picture(s, pair.llava.pixels(s), side, side) for s in squares]
        self._texts = [
            [
                rng.integers(5, words, rng.integers(SHORTEST, LONGEST + 1)).tolist()
                for _ in range(instructions)
            ]
            for _ in range(images)
        ]
        device = pair.llava.device
        self._transfer = Transfer(device)
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD)
        )
        self._runners = [
            BatchRunner(model, self._transfer, self._pictures[0], batch)
            for model in (HiddenStates(pair.llava), ImageEmbeddings(pair.sam))
        ]

    def ways(self) -> list[Way]:
        """Return the three ways; the others are compared with the first."""
        pair = self._pair
        whole, early, ours = self._flops()
        return [
            Way("per instruction", self._whole, whole, [pair.whole, pair.plain_sam]),
            Way("early exit", self._early, early, [pair.early, pair.plain_sam]),
            Way("lens-cache", self._engine, ours, [pair.llava.model, pair.sam.model]),
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

    def _engine(self) -> Features:
        """Run the engine of an extraction, with batches in flight as in an extraction."""
        waiting: deque[list[list[Flight]]] = deque()
        last: list[Mapping[str, Tensor]] = []
        for chunk in batched(zip(self._pictures, self._texts, strict=True), self._batch):
            pictures, texts = [picture for picture, _ in chunk], [asked for _, asked in chunk]
            waiting.append([runner.launch(pictures, texts) for runner in self._runners])
            if len(waiting) > _IN_FLIGHT:
                self._collect(waiting.popleft())
        while waiting:
            last = self._collect(waiting.popleft())
        layer = self._pair.layer
        words = last[0][array_name(layer, "text_tokens")][-len(self._texts[-1][-1]) :]
        return {
            "states": torch.cat([last[0][array_name(layer, "image_tokens")], words]),
            "embedding": last[1]["image_embeddings"],
        }

    def _collect(self, flights: Sequence[Sequence[Flight]]) -> list[Mapping[str, Tensor]]:
        """Wait for a batch; return the features of its last image in each group."""
        last: list[Mapping[str, Tensor]] = []
        for runner, queued in zip(self._runners, flights, strict=True):
            outcomes, _ = runner.collect(queued)
            for outcome in outcomes.values():
                if isinstance(outcome, str):
                    raise ExtractionError(
                        f"measuring an extraction: an image failed ({outcome}); run it with "
                        "smaller --images-per-batch"
                    )
            last.append(outcomes[max(outcomes)])  # type: ignore[arg-type]
        return last

    def _flops(self) -> tuple[float, float, float]:
        """Return the floating-point operations of each way."""
        vision, text = self._pair.configs
        tower, embed = vision_flops(vision), sam_flops(self._sizes.sam)
        prompt = self._pair.llava.prompt
        shared = len(prompt.prefix_ids) + prompt.num_image_tokens
        layer, depth = self._pair.layer, int(text["num_hidden_layers"])
        texts = [[len(words) for words in asked] for asked in self._texts]
        every = [length for lengths in texts for length in lengths]

        def alone(layers: int) -> float:
            return sum(tower + embed + decoder_flops(text, layers, shared, [n]) for n in every)

        # The prefix runs once per worker, and the last layers of the tower are not run.
        read = len(self._pair.llava.model.vision_tower.encoder.layers)
        begun = decoder_flops(text, layer, len(prompt.prefix_ids), [])
        tower_read = vision_flops({**vision, "num_hidden_layers": read})
        ours = sum(
            tower_read + embed + decoder_flops(text, layer, shared, row) - begun for row in texts
        )
        return alone(depth), alone(layer), ours
