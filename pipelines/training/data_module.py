"""What a training reads: this process's share of the training stream, and of the validation."""

from __future__ import annotations

from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lens_cache.config.train import TrainConfig
from lens_cache.store.store import Store
from lens_cache.training.data import Batch, FeatureDataset, evaluation_draws, training_loader
from lens_cache.training.sampling import Draw, Share
from lens_cache.training.streaming import streaming_loader


class StoreDataModule(LightningDataModule):
    """Serves a store's queries; goes on after a resume with the batches not seen yet."""

    def __init__(self, store: Store, config: TrainConfig, layer: int) -> None:
        super().__init__()
        self._store, self._config, self._layer = store, config, layer
        self._start = 0

    def setup(self, stage: str) -> None:
        """Agree with the other processes on what is used of a store under extraction."""
        assert self.trainer is not None
        shards = self.trainer.strategy.broadcast(self._store.shards)
        if shards != self._store.shards:
            self._store = Store(self._store.root, shards=shards)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the training stream of this rank."""
        assert self.trainer is not None
        batch = self._config.batch
        loader = streaming_loader if batch.order == "stream" else training_loader
        return loader(
            self._store,
            layer=self._layer,
            loss=self._config.loss,
            batch=batch,
            share=Share(
                # One batch more than is trained on: had Lightning seen the last one, a run could
                # not be resumed with more steps.
                num_batches=self._config.trainer.max_steps * batch.accumulate + 1,
                seed=self._config.trainer.seed,
                rank=self.trainer.global_rank,
                world=self.trainer.world_size,
                start=self._start,
            ),
            pin_memory=self._pins,
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Return the validation queries, each owned by exactly one rank."""
        assert self.trainer is not None
        batch = self._config.batch
        if batch.validation_split is None:
            return []
        draws = evaluation_draws(self._store, batch.validation_split, batch.limit_validation_images)
        mine = draws[self.trainer.global_rank :: self.trainer.world_size]
        dataset = FeatureDataset(self._store, self._layer, self._config.loss)
        sampler: list[list[Draw]] = [[draw] for draw in mine]
        return [
            DataLoader(
                dataset,
                batch_sampler=sampler,
                collate_fn=FeatureDataset.collate,
                num_workers=batch.loader_workers,
                multiprocessing_context=self._store.worker_context
                if batch.loader_workers
                else None,
                pin_memory=self._pins,
            )
        ]

    @property
    def _pins(self) -> bool:
        assert self.trainer is not None
        return bool(self.trainer.strategy.root_device.type == "cuda")

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches the saved weights have seen."""
        assert self.trainer is not None
        return {"batches": self.trainer.global_step * self._config.batch.accumulate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on behind the batches already seen."""
        self._start = int(state_dict["batches"])
