"""The data of a training run: this process's part of the training and validation batches."""

from __future__ import annotations

from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from lens_cache.config.train import TrainConfig
from lens_cache.store.store import Store
from lens_cache.training.data import Batch, evaluation_draws, evaluation_loader, training_loader
from lens_cache.training.sampling import Share
from lens_cache.training.streaming import streaming_loader


class StoreDataModule(LightningDataModule):
    """Batches of a store; after a resume the stream continues with the first unseen batch."""

    def __init__(self, store: Store, config: TrainConfig, layer: int) -> None:
        super().__init__()
        self._store = store
        self._config = config
        self._layer = layer
        self._start = 0

    def setup(self, stage: str) -> None:
        """Use the same shards in all processes, while an extraction may still add some."""
        assert self.trainer is not None
        shards = self.trainer.strategy.broadcast(self._store.shards)
        if shards != self._store.shards:
            self._store = Store(self._store.root, shards=shards)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Return the training batches of this rank."""
        assert self.trainer is not None
        batch = self._config.batch
        loader = streaming_loader if batch.order == "stream" else training_loader
        return loader(
            self._store,
            layer=self._layer,
            loss=self._config.loss,
            batch=batch,
            share=Share(
                # One batch more than is used: Lightning cannot resume a run with more steps once
                # its loader has ended.
                num_batches=self._config.trainer.max_steps * batch.accumulate + 1,
                seed=self._config.trainer.seed,
                rank=self.trainer.global_rank,
                world=self.trainer.world_size,
                start=self._start,
            ),
            pin_memory=self._pin_memory,
        )

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """Return the validation batches; each query belongs to exactly one rank."""
        assert self.trainer is not None
        batch = self._config.batch
        if batch.validation_split is None:
            return []
        draws = evaluation_draws(self._store, batch.validation_split, batch.limit_validation_images)
        mine = draws[self.trainer.global_rank :: self.trainer.world_size]
        loader = evaluation_loader(
            self._store,
            mine,
            layer=self._layer,
            loss=self._config.loss,
            batch=batch,
            pin_memory=self._pin_memory,
        )
        return [loader]

    @property
    def _pin_memory(self) -> bool:
        assert self.trainer is not None
        return bool(self.trainer.strategy.root_device.type == "cuda")

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches that the saved weights were trained on."""
        assert self.trainer is not None
        return {"batches": self.trainer.global_step * self._config.batch.accumulate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start after the batches that were already trained on."""
        self._start = int(state_dict["batches"])
