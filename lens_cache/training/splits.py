"""The splits of a training: which queries it uses, and which it must not."""

from __future__ import annotations

import dataclasses

import pyarrow.compute as pc

from lens_cache.config.train import BatchConfig
from lens_cache.datasets.lisa import KINDS
from lens_cache.datasets.questions import is_training
from lens_cache.errors import ConfigError
from lens_cache.store.store import Store

_SHOWN = 3


def with_splits(batch: BatchConfig, store: Store) -> BatchConfig:
    """Return the settings with the training and the validation split that the store suggests.

    An empty ``split`` becomes ``train``, or the store's only split that starts with ``train``, or
    its only split. An empty ``validation_split`` becomes ``val``, or the store's only split that
    starts with ``val``.

    Raises:
        ConfigError: If no split of the store is for training.
    """
    names = sorted({name.rpartition("|")[2] for name in store.plan.splits()})
    if batch.split is None and batch.order != "draws":
        batch = dataclasses.replace(batch, split=_training_split(names, store))
    validation = ["val"] if "val" in names else [n for n in names if n.startswith("val")]
    if batch.validation_split is None and len(validation) == 1 and batch.split != validation[0]:
        batch = dataclasses.replace(batch, validation_split=validation[0])
    return batch


def _training_split(names: list[str], store: Store) -> str:
    training = ["train"] if "train" in names else [name for name in names if is_training(name)]
    choices = training or names
    if len(choices) == 1:
        return choices[0]
    raise ConfigError(
        f"training from {store.root}: expected one split for training, found {', '.join(choices)}; "
        "set batch.split"
    )


def require_clean(batch: BatchConfig, store: Store) -> None:
    """Refuse to train on what is evaluated, unless ``batch.contamination`` is ``allow``.

    Raises:
        ConfigError: If images are both trained on and validated on, or the split is one that a
            benchmark evaluates.
        StoreError: If a split has no image.
    """
    if batch.contamination == "allow":
        return
    doing, cure = f"training from {store.root}", "or batch.contamination=allow to train on it"
    tested = _benchmark_splits(batch, store)
    if tested:
        raise ConfigError(
            f"{doing}: expected a split for training, found {', '.join(tested)}, which a benchmark "
            f"evaluates; set batch.split=train, {cure}"
        )
    if batch.validation_split is None:
        return
    validated = _ids(store, batch.validation_split, batch.limit_validation_images)
    shared = sorted(trained_images(batch, store) & validated)
    if shared:
        shown = ", ".join(shared[:_SHOWN]) + (", ..." if len(shared) > _SHOWN else "")
        raise ConfigError(
            f"{doing}: {len(shared)} images of the validation split {batch.validation_split} are "
            f"trained on too ({shown}); set another batch.split or batch.validation_split, {cure}"
        )


def trained_images(batch: BatchConfig, store: Store) -> set[str]:
    """Return the ids, which are digests of the content, of the images that a training may draw."""
    if batch.order == "draws":  # of training splits only
        queries = store.plan.queries
        training = pc.starts_with(queries["split"], "train")
        return set(queries.filter(training)["image_id"].to_pylist())
    return _ids(store, batch.split, batch.limit_images)


def _ids(store: Store, split: str | None, limit: int | None) -> set[str]:
    return set(store.plan.images["image_id"].take(store.images(split, limit)).to_pylist())


def _benchmark_splits(batch: BatchConfig, store: Store) -> list[str]:
    """Return ``dataset|split`` of the trained queries that belong to a benchmark's test data."""
    trained = store.plan.queries.filter(store.plan.in_split(batch.split))
    pairs = trained.group_by(["dataset", "split"]).aggregate([]).to_pylist()
    names = [(pair["dataset"], pair["split"]) for pair in pairs]
    # The draws of a plan are of training splits only.
    return sorted(
        f"{dataset}|{split}"
        for dataset, split in names
        if dataset in KINDS and not is_training(split) and batch.order != "draws"
    )
