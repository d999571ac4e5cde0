"""Build the LENS model from a store and take training steps by hand, without a trainer.

python examples/train_step.py runs/demo/store
"""

from __future__ import annotations

import argparse

import torch

import lens_cache as lc
from lens_cache.training.data import training_loader
from lens_cache.training.losses import LensLoss
from lens_cache.training.sampling import Share


def main() -> None:
    """Print the loss of each step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?", default="runs/demo/store", help="folder or URL")
    parser.add_argument("--preset", default="shapes", help="paper, released, shapes or tiny")
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="a.b=value, as for the CLI")
    arguments = parser.parse_args()

    # Settings, model, loss, optimizer.
    config = lc.load_config(lc.TrainConfig, None, [f"preset={arguments.preset}", *arguments.set])
    store = lc.Store(arguments.store)
    model = lc.LensModel(config.model, store.frozen()).train()
    loss = LensLoss(config.loss, side=store.manifest.side)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.optimizer.lr)

    # Batches: B images, each with up to ``batch.queries_per_image`` queries.
    torch.manual_seed(config.trainer.seed)
    share = Share(num_batches=arguments.steps, seed=config.trainer.seed)
    batches = training_loader(
        store, layer=model.layer, loss=config.loss, batch=config.batch, share=share
    )
    for step, batch in enumerate(batches):
        batch = batch.to(torch.device("cpu"), torch.float32)
        losses = loss(model(batch.features), batch.targets)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        print(
            f"step {step}: loss {losses.total:.4f} (dice {losses.dice:.4f}, "
            f"BCE {losses.bce:.4f}, attention {losses.attention:.4f})"
        )


if __name__ == "__main__":
    main()
