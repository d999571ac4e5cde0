"""Three ways to train the same LENS modules on the same draws.

- ``in the loop``: as the authors' code does it: the whole MLLM with its hidden states for every
  (image, instruction) and SAM's encoder for every image, at every draw, then the head row by row;
- ``cached rows``: features from a store, one row of a batch for each instruction;
- ``lens-cache``: features from the store, image tokens once for all instructions of an image.

All take the same steps of the same optimizer. Images of the first way are decoded beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Sampler

from lens_cache.config.train import BatchConfig, LossConfig, ModelConfig, OptimizerConfig
from lens_cache.encoders.sam import PIXEL_MEAN, PIXEL_STD
from lens_cache.encoders.sam_checkpoint import PHASE_TWO
from lens_cache.features.frozen_parts import FrozenParts
from lens_cache.features.sam_modules import build_prompt_encoder_and_mask_decoder
from lens_cache.features.types import ImageFeatures
from lens_cache.models.lens import LensModel
from lens_cache.store.store import Store
from lens_cache.toy.small_llava import llava_config
from lens_cache.training.data import Batch, FeatureDataset, training_loader
from lens_cache.training.losses import LensLoss
from lens_cache.training.optimizer import build_optimizer
from lens_cache.training.sampling import Draw, DrawSampler, Share, sources
from pipelines.benchmark.models import Pair, PairSizes
from pipelines.benchmark.random_store import LAYER


@dataclass(frozen=True)
class TrainingWay:
    """One way to train.

    Attributes:
        name: Its name.
        batches: Its batches, in the same order for all ways; practically endless.
        modules: Frozen models that it needs in memory.
    """

    name: str
    batches: Callable[[], Iterator[Batch]]
    modules: Sequence[torch.nn.Module] = ()


class TrainingWork:
    """Draws from a store of random features, and the three ways to make batches of them."""

    def __init__(
        self,
        store: Store,
        pair: Pair | None,
        loss: LossConfig,
        *,
        images: int,
        instructions: int,
        workers: int,
        side: int,
    ) -> None:
        """Set up the parts that all ways share.

        Args:
            store: The store that the cached ways read.
            pair: The models of the way without a cache; without them the way is skipped.
            loss: Settings of the mask losses.
            images: Images per step.
            instructions: Instructions per image.
            workers: Processes that read ahead.
            side: Side of SAM's square in pixels.
        """
        self._store, self._pair, self._loss, self._side = store, pair, loss, side
        self._batch = BatchConfig(
            images=images, queries_per_image=instructions, loader_workers=workers
        )
        self._share = Share(num_batches=10**6, seed=0)
        self._dataset = FeatureDataset(store, LAYER, loss)

    def ways(self) -> list[TrainingWay]:
        """Return the ways; the others are compared with the first."""
        cached = [TrainingWay("cached rows", self._rows), TrainingWay("lens-cache", self._grouped)]
        if self._pair is None:
            return cached
        loop = partial(self._in_the_loop, self._pair)
        return [TrainingWay("in the loop", loop, [self._pair.whole, self._pair.plain_sam]), *cached]

    def _draws(self) -> DrawSampler:
        return DrawSampler(sources(self._store, self._batch), self._batch, self._share)

    def _grouped(self) -> Iterator[Batch]:
        loader = training_loader(
            self._store,
            layer=LAYER,
            loss=self._loss,
            batch=self._batch,
            share=self._share,
            pin_memory=torch.cuda.is_available(),
        )
        return iter(loader)

    def _rows(self) -> Iterator[Batch]:
        loader = DataLoader(
            self._dataset,
            batch_sampler=_Rows(self._draws()),
            collate_fn=FeatureDataset.collate,
            num_workers=self._batch.loader_workers,
            pin_memory=torch.cuda.is_available(),
        )
        return iter(loader)

    def _in_the_loop(self, pair: Pair) -> Iterator[Batch]:
        for draws in self._draws():
            rows = zip(_rows_of(draws), self._encode(pair, draws), strict=True)
            yield FeatureDataset.collate([self._dataset.item(*row) for row in rows])

    @torch.no_grad()
    def _encode(self, pair: Pair, draws: Sequence[Draw]) -> list[ImageFeatures]:
        """Run MLLM and SAM as the authors' code does; one entry for every instruction."""
        prompt = pair.llava.prompt
        device, dtype = pair.llava.device, pair.sam.dtype
        squares = [self._square(draw.image) for draw in draws]
        pixels = [pair.llava.pixels(square) for square in squares]
        shared = [*prompt.prefix_ids, *[prompt.image_token_id] * prompt.num_image_tokens]
        counts = [len(draw.queries) for draw in draws]
        ids = [
            torch.tensor([*shared, *self._text(pair, query)])
            for draw in draws
            for query in draw.queries
        ]
        each = [pixel for pixel, count in zip(pixels, counts, strict=True) for _ in range(count)]
        hidden = pair.whole(
            input_ids=pad_sequence(ids, batch_first=True).to(device),
            attention_mask=pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).to(
                device
            ),
            pixel_values=torch.stack(each).to(device, dtype),
            use_cache=False,
            output_hidden_states=True,
            logits_to_keep=1,
        ).hidden_states[pair.layer]
        mean, std = (
            torch.tensor(values, device=device)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD)
        )
        images = torch.from_numpy(np.stack(squares)).to(device).permute(0, 3, 1, 2)
        embeddings = pair.plain_sam(((images - mean) / std).to(dtype))
        which = [number for number, count in enumerate(counts) for _ in range(count)]
        start, middle = len(prompt.prefix_ids), len(shared)
        return [
            ImageFeatures(
                prefix=states[:start],
                image_tokens=states[start:middle],
                text_tokens=[states[middle : len(row)]],
                image_embedding=embeddings[image],
            )
            for states, row, image in zip(hidden, ids, which, strict=True)
        ]

    def _square(self, image: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        rng = np.random.default_rng(image)
        return rng.integers(0, 256, (self._side, self._side, 3), dtype=np.uint8)

    def _text(self, pair: Pair, query: int) -> list[int]:
        """Return as many random token ids as the store has rows for the query."""
        words = len(pair.llava.prompt.processor.tokenizer)
        length = len(self._store.questions.token_ids[query])
        found: list[int] = np.random.default_rng(query).integers(5, words, length).tolist()
        return found


def _rows_of(draws: Sequence[Draw]) -> list[Draw]:
    """Return one draw for every instruction."""
    return [Draw(draw.image, (query,)) for draw in draws for query in draw.queries]


class _Rows(Sampler[list[Draw]]):
    """The batches of a sampler with one draw for every instruction."""

    def __init__(self, batches: DrawSampler) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Draw]]:
        return (_rows_of(draws) for draws in self._batches)


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
    modules = zip(PHASE_TWO, build_prompt_encoder_and_mask_decoder(sizes.sam), strict=True)
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
