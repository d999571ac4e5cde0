"""The engine of an extraction over images that are already decoded."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.sam import SamEncoder
from lens_cache.errors import ExtractionError
from lens_cache.extraction.batch_runner import BatchRunner, Flight
from lens_cache.extraction.estimate import decoder_flops, sam_flops, vision_flops
from lens_cache.extraction.feature_models import HiddenStates, ImageEmbeddings, Picture, Texts
from lens_cache.extraction.threads import batched
from lens_cache.features.sam_architecture import SamArchitecture
from lens_cache.features.transfer import Transfer
from lens_cache.store.layout import array_name
from pipelines.benchmark.random_features import LONGEST, SHORTEST

_IN_FLIGHT = 2

Features = dict[str, Tensor]


def random_pictures(llava: LlavaEncoder, side: int, count: int) -> list[Picture]:
    """Return images of noise, the same at every call."""
    rng = np.random.default_rng(0)
    squares = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(count)]
    return [Picture(square, llava.pixels(square), side, side) for square in squares]


def random_texts(llava: LlavaEncoder, questions: Sequence[int]) -> list[list[list[int]]]:
    """Return token ids of random questions, the same at every call.

    Args:
        llava: Its tokenizer has the words.
        questions: Number of questions of each image.
    """
    rng = np.random.default_rng(1)
    words = len(llava.prompt.processor.tokenizer)
    return [
        [rng.integers(5, words, rng.integers(SHORTEST, LONGEST + 1)).tolist() for _ in range(count)]
        for count in questions
    ]


def engine_flops(
    llava: LlavaEncoder,
    configs: tuple[Mapping[str, Any], Mapping[str, Any]],
    sam: SamArchitecture,
    texts: Sequence[Texts],
) -> float:
    """Return the floating-point operations of an extraction of images, without padding.

    Args:
        llava: The multimodal LLM; the layers of the tower that it does not run are not counted, nor
            is the prefix, which runs once per worker.
        configs: Configurations of the whole vision tower and of the text model.
        sam: Sizes of the image encoder.
        texts: Token ids of the questions of each image.
    """
    vision, text = configs
    read = len(llava.model.vision_tower.encoder.layers)
    once = vision_flops({**vision, "num_hidden_layers": read}) + sam_flops(sam)
    num_prefix = len(llava.prompt.prefix_ids)
    shared, layer = num_prefix + llava.num_image_tokens, llava.layers[-1]
    prefix = decoder_flops(text, layer, num_prefix, [])
    rows = [[len(words) for words in asked] for asked in texts]
    return sum(once + decoder_flops(text, layer, shared, row) - prefix for row in rows)


class EngineRun:
    """Runs LLaVA and SAM over pictures, with batches in flight as in an extraction.

    Attributes:
        seconds: Time of each model on its device, and ``launch``: time of the host to queue the
            batches; both since the start.
    """

    def __init__(
        self,
        llava: LlavaEncoder,
        sam: SamEncoder,
        pictures: Sequence[Picture],
        texts: Sequence[Texts],
        batch: int,
    ) -> None:
        """Take the work.

        Args:
            llava: The multimodal LLM; the features of its last tapped layer are returned.
            sam: The image encoder.
            pictures: The images.
            texts: Token ids of the questions of each image, at least one.
            batch: Images per batch.
        """
        self._layer = llava.layers[-1]
        self._pictures, self._texts, self._batch = pictures, texts, batch
        transfer = Transfer(llava.device)
        self._runners = [
            BatchRunner(model, transfer, pictures[0], batch)
            for model in (HiddenStates(llava), ImageEmbeddings(sam))
        ]
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def run(self) -> Features:
        """Run all images.

        Returns:
            ``states`` of image tokens and last question of the last image, (N + T, d), and its
            ``embedding``, (C, h, w), both on the host.

        Raises:
            ExtractionError: If an image failed.
        """
        waiting: deque[list[list[Flight]]] = deque()
        last: list[Mapping[str, Tensor]] = []
        for chunk in batched(zip(self._pictures, self._texts, strict=True), self._batch):
            waiting.append(self.launch(*zip(*chunk, strict=True)))
            if len(waiting) > _IN_FLIGHT:
                self.collect(waiting.popleft())
        while waiting:
            last = self.collect(waiting.popleft())
        words = last[0][array_name(self._layer, "text_tokens")][-len(self._texts[-1][-1]) :]
        return {
            "states": torch.cat([last[0][array_name(self._layer, "image_tokens")], words]),
            "embedding": last[1]["image_embeddings"],
        }

    def launch(self, pictures: Sequence[Picture], texts: Sequence[Texts]) -> list[list[Flight]]:
        """Queue a batch in both models."""
        began = time.perf_counter()
        flights = [runner.launch(pictures, texts) for runner in self._runners]
        self.seconds["launch"] += time.perf_counter() - began
        return flights

    def collect(self, flights: Sequence[Sequence[Flight]]) -> list[Mapping[str, Tensor]]:
        """Wait for a batch; return the features of its last image in each group.

        Raises:
            ExtractionError: If an image failed.
        """
        last: list[Mapping[str, Tensor]] = []
        for runner, queued in zip(self._runners, flights, strict=True):
            outcomes, seconds = runner.collect(queued)
            self.seconds[runner.model.stage] += seconds
            for outcome in outcomes.values():
                if isinstance(outcome, str):
                    raise ExtractionError(
                        f"measuring an extraction: an image failed ({outcome}); run it with "
                        "smaller --images-per-batch"
                    )
            last.append(outcomes[max(outcomes)])  # type: ignore[arg-type]
        return last
