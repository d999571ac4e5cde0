"""A head and frozen models with random weights, for measurements of speed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from lens_cache.config.extract import EncodersConfig, ExtractConfig, LlavaConfig, SamConfig
from lens_cache.config.load import to_tree
from lens_cache.config.train import ModelConfig, TrainConfig, TrainerConfig
from lens_cache.encoders.resolve import Encoders
from lens_cache.models.lens import LensModel
from lens_cache.predictor.trained_head import TrainedHead, trained_weights
from lens_cache.toy.random_checkpoints import (
    LLAVA_FOLDER,
    SAM_FILE,
    write_random_checkpoints,
)
from pipelines.benchmark.models import PairSizes


@contextmanager
def stand_in_head(
    sizes: PairSizes, *, dtype: Literal["float32", "bfloat16"], device: str, seed: int = 0
) -> Iterator[TrainedHead]:
    """Write checkpoints with random weights into a temporary folder, with a head that fits them.

    The multimodal LLM has no layer after the tapped one, since a predictor does not load those. Its
    vocabulary is that of the tiny tokenizer.

    Args:
        sizes: Sizes of the frozen models, and the tapped layer.
        dtype: Precision of the frozen models; with ``bfloat16`` the head runs in mixed precision.
        device: Where the weights are drawn.
        seed: Seed of all weights.

    Yields:
        The head; the folder of its frozen models is removed at the end.
    """
    with tempfile.TemporaryDirectory(prefix="lens-cache-stand-in-") as scratch:
        root = Path(scratch) / "models"
        llava = replace(sizes.llava, layers=sizes.layer, vocabulary=None)
        write_random_checkpoints(root, llava, sizes.sam, seed=seed, device=device)
        settings = ExtractConfig(
            encoders=EncodersConfig(
                root=root,
                llava=LlavaConfig(checkpoint=LLAVA_FOLDER, layers=(sizes.layer,), dtype=dtype),
                sam=SamConfig(checkpoint=SAM_FILE, dtype=dtype),
            )
        )
        precision: Literal["32-true", "bf16-mixed"]
        precision = "32-true" if dtype == "float32" else "bf16-mixed"
        training = TrainConfig(
            model=ModelConfig(layer=sizes.layer, warm_start=False),
            trainer=TrainerConfig(precision=precision),
        )
        found = Encoders.resolve(settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LensModel(training.model, found.frozen_parts([]))
        yield TrainedHead(
            name=f"{sizes.name}, random weights",
            config=training,
            encoders=to_tree(settings),
            fingerprints=found.fingerprints,
            weights=trained_weights(model),
        )
