"""Train LENS on the tars of a store with a WebDataset pipeline, step by step.

Run ``lens-cache convert STORE TARS --format webdataset``, then
``python examples/train_from_tars.py TARS [STEPS]``.
"""

from __future__ import annotations

import random
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lens_cache.config.train import LossConfig, ModelConfig, OptimizerConfig
from lens_cache.models.lens import LensModel
from lens_cache.store.store import Store
from lens_cache.store.webdataset.decode import sample_features
from lens_cache.store.webdataset.pipeline import sample_pipeline
from lens_cache.training.data import FeatureDataset
from lens_cache.training.losses import LensLoss
from lens_cache.training.optimizer import build_optimizer
from lens_cache.training.sampling import Draw

IMAGES_PER_BATCH = 2
QUERIES_PER_IMAGE = 3


def main(root: Path, steps: int) -> None:
    """Take some steps and print the loss of each."""
    torch.manual_seed(0)
    store = Store(root)
    layer = store.layers[0]
    model = LensModel(ModelConfig(layer=layer), store.frozen()).train()
    optimizer = build_optimizer(model.parameters(), OptimizerConfig(lr=1e-3))
    loss = LensLoss(LossConfig(), side=store.manifest.side)
    dataset = FeatureDataset(store, layer, LossConfig())

    def with_targets(sample: dict[str, Any]) -> Any:
        queries = range(len(sample["json"]["queries"]))[:QUERIES_PER_IMAGE]
        features = sample_features(sample, queries, layer=layer, prefix=store.prefix(layer))
        image = sample["json"]["index"]
        first = store.plan.query_range(image).start
        return dataset.item(Draw(image, tuple(first + query for query in queries)), features)

    batches = (
        sample_pipeline(store)
        .shuffle(100, rng=random.Random(0))
        .select(lambda sample: sample["json"]["queries"])
        .map(with_targets)
        .batched(IMAGES_PER_BATCH, collation_fn=FeatureDataset.collate)
        .repeat()
    )
    for step, batch in enumerate(islice(batches, steps), start=1):
        answer = model(batch.features.to("cpu", torch.float32))
        total = loss(answer, batch.targets).total
        total.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        print(f"step {step}: loss {total.item():.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), steps=int(sys.argv[2]) if len(sys.argv) > 2 else 10)
