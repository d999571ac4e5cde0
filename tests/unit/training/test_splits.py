from types import SimpleNamespace

import pyarrow as pa
import pytest

from lens_cache.config.train import BatchConfig
from lens_cache.errors import ConfigError
from lens_cache.training.splits import require_clean, trained_images, with_splits


class Plan:
    """Images and queries of a plan: rows of (image, dataset, split)."""

    def __init__(self, rows):
        names = list(dict.fromkeys(image for image, _, _ in rows))
        self.images = pa.table({"image_id": names})
        columns = dict(zip(("image_id", "dataset", "split"), zip(*rows, strict=True), strict=True))
        self.queries = pa.table({name: list(values) for name, values in columns.items()})
        self._several = len({dataset for _, dataset, _ in rows}) > 1

    def splits(self):
        pairs = zip(*(self.queries[name].to_pylist() for name in ("dataset", "split")), strict=True)
        names = ["|".join(pair) if self._several else pair[1] for pair in pairs]
        return {name: names.count(name) for name in sorted(set(names))}

    def in_split(self, split):
        dataset, _, name = (split or "").rpartition("|")
        return pa.array(
            [
                split is None or (row["split"] == name and dataset in ("", row["dataset"]))
                for row in self.queries.to_pylist()
            ]
        )


def store_of(*rows):
    plan = Plan(rows)

    def images(split, limit=None):
        chosen = plan.queries.filter(plan.in_split(split))["image_id"].to_pylist()
        names = plan.images["image_id"].to_pylist()
        return [index for index, name in enumerate(names) if name in chosen][:limit]

    return SimpleNamespace(root="STORE", plan=plan, images=images)


@pytest.mark.parametrize(
    ("splits", "training", "validation"),
    [
        (["train", "val", "test"], "train", "val"),
        (["train", "valid"], "train", "valid"),
        (["train2017"], "train2017", None),
        (["train2017", "val2017"], "train2017", "val2017"),
        (["train", "val2014", "val2017"], "train", None),
        (["train", "train_hard"], "train", None),
        (["test"], "test", None),
        (["val"], "val", None),
    ],
)
def test_empty_splits_become_those_of_the_store(splits, training, validation):
    store = store_of(*((f"image of {split}", "jsonl", split) for split in splits))
    chosen = with_splits(BatchConfig(), store)
    assert (chosen.split, chosen.validation_split) == (training, validation)
    require_clean(chosen, store)


def test_splits_that_are_set_are_not_changed():
    store = store_of(("a", "jsonl", "train"), ("b", "jsonl", "val"), ("c", "jsonl", "dev"))
    batch = BatchConfig(split="val", validation_split="dev")
    assert with_splits(batch, store) == batch


@pytest.mark.parametrize("splits", [["train_a", "train_b"], ["one", "two"]])
def test_a_store_that_suggests_no_split_is_refused(splits):
    store = store_of(*((split, "jsonl", split) for split in splits))
    with pytest.raises(ConfigError, match=f"found {splits[0]}, {splits[1]}; set batch.split"):
        with_splits(BatchConfig(), store)


def test_images_of_the_validation_split_are_not_trained_on():
    """The same image may have instructions in two splits."""
    store = store_of(("a", "jsonl", "train"), ("b", "jsonl", "train"), ("b", "jsonl", "val"))
    batch = BatchConfig(split="train", validation_split="val")
    with pytest.raises(ConfigError, match=r"1 images of the validation split val .*\(b\)"):
        require_clean(batch, store)
    require_clean(BatchConfig(split="train", validation_split="val", limit_images=1), store)
    require_clean(BatchConfig(split="train", validation_split="val", contamination="allow"), store)


@pytest.mark.parametrize("split", ["val", "reason_seg|val", None])
def test_a_split_that_a_benchmark_evaluates_is_not_trained_on(split):
    store = store_of(
        ("a", "ade20k", "train"), ("b", "reason_seg", "train"), ("c", "reason_seg", "val")
    )
    with pytest.raises(ConfigError, match=r"found reason_seg\|val, which a benchmark evaluates"):
        require_clean(BatchConfig(split=split), store)
    require_clean(with_splits(BatchConfig(), store), store)
    require_clean(BatchConfig(split=split, contamination="allow"), store)


def test_draws_are_of_training_splits():
    store = store_of(("a", "ade20k", "train"), ("b", "reason_seg", "val"))
    batch = with_splits(BatchConfig(order="draws"), store)
    assert (batch.split, batch.validation_split) == (None, "val")
    require_clean(batch, store)
    assert trained_images(batch, store) == {"a"}
