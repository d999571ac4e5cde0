import dataclasses
import pickle
import threading

import numpy as np
import pytest
import torch

from lens_cache.config.train import BatchConfig, LossConfig
from lens_cache.errors import StoreError
from lens_cache.images.geometry import inside_image, mask_to_square
from lens_cache.images.masks import encode
from lens_cache.plan.planned import PlannedQuery
from lens_cache.store.store import Store
from lens_cache.training.data import FeatureDataset, evaluation_draws, training_loader
from lens_cache.training.sampling import Draw, Share
from lens_cache.training.targets import make_targets


def test_every_query_of_a_split_is_evaluated_once(tiny_store):
    store = Store(tiny_store)
    draws = evaluation_draws(store, "train2017", None)
    assert sorted(q for draw in draws for q in draw.queries) == list(range(store.plan.num_queries))
    assert [draw.image for draw in evaluation_draws(store, None, 2)] == [0, 1]
    with pytest.raises(StoreError, match="choosing split 'val'"):
        evaluation_draws(store, "val", None)


def test_a_batch_holds_what_the_store_and_the_plan_say(tiny_store):
    store, loss = Store(tiny_store), LossConfig(attention_size=32, mask_size=48)
    dataset = FeatureDataset(store, 4, loss)
    draws = [
        Draw(0, tuple(store.plan.query_range(0))[:2]),
        Draw(3, (store.plan.query_range(3)[-1],)),
    ]
    batch = FeatureDataset.collate([dataset[draw] for draw in draws])
    assert batch.draws == tuple(draws)
    assert batch.features.num_questions == (2, 1)
    for place, draw in enumerate(draws):
        found = store.read(draw.image, draw.queries, 4)
        assert torch.equal(batch.features.image_tokens[place], found.image_tokens)
        assert torch.equal(batch.features.image_embeddings[place], found.image_embedding)
    queries = [query for draw in draws for query in draw.queries]
    for place, query in enumerate(queries):
        truth, ignore = store.plan.query(query).target(), store.plan.query(query).ignore()
        np.testing.assert_array_equal(batch.targets.attention[place], mask_to_square(truth, 32))
        np.testing.assert_array_equal(batch.targets.masks[place], mask_to_square(truth, 48))
        valid = inside_image(40, 30, 48)
        if ignore is not None:
            valid = valid & ~mask_to_square(ignore, 48)
        np.testing.assert_array_equal(batch.targets.valid[place], valid)


def planned(target, ignore=None):
    """A query about one image with these masks; nothing else of it matters."""
    rle, ignored = encode(target), None if ignore is None else encode(ignore)
    names = [field.name for field in dataclasses.fields(PlannedQuery)]
    return PlannedQuery(
        **dict.fromkeys(names, "")
        | {
            "size": target.shape,
            "target_counts": rle["counts"],
            "ignore_counts": None if ignored is None else ignored["counts"],
        }
    )


def test_masks_keep_the_resolution_of_their_image_unless_told():
    truth = np.zeros((30, 40), bool)
    truth[3:9, 5:8] = True
    queries = [planned(truth), planned(~truth, ignore=truth)]
    targets = make_targets(queries, LossConfig(attention_size=16))
    assert [tuple(mask.shape) for mask in targets.masks] == [(30, 40), (30, 40)]
    np.testing.assert_array_equal(targets.masks[0], truth)
    assert targets.valid[0].all()
    np.testing.assert_array_equal(targets.valid[1], ~truth)
    assert targets.attention.shape == (2, 16, 16)
    assert targets.attention_valid[0].all()
    np.testing.assert_array_equal(
        ~targets.attention_valid[1].numpy(), mask_to_square(encode(truth), 16)
    )


def test_ignored_pixels_and_padding_are_not_compared_in_the_square():
    truth, ignore = np.zeros((2, 30, 40), bool)
    ignore[10:20] = True
    targets = make_targets([planned(truth, ignore)], LossConfig(attention_size=16, mask_size=32))
    expected = inside_image(40, 30, 32) & ~mask_to_square(encode(ignore), 32)
    np.testing.assert_array_equal(targets.valid[0], expected)


def test_a_loader_in_another_process_reads_the_same(tiny_store):
    store = Store(tiny_store)
    batches = []
    for workers in (0, 1):
        loader = training_loader(
            store,
            layer=4,
            loss=LossConfig(attention_size=16, mask_size=16),
            batch=BatchConfig(images=2, queries_per_image=2, loader_workers=workers),
            share=Share(num_batches=3, seed=0),
        )
        batches.append(list(loader))
    for one, other in zip(*batches, strict=True):
        assert one.draws == other.draws
        assert torch.equal(one.features.image_tokens, other.features.image_tokens)
        assert torch.equal(one.targets.attention, other.targets.attention)


def test_a_store_can_be_sent_to_a_process_that_does_not_fork(tiny_store):
    store = Store(tiny_store)
    store.read(0, [0], 4)
    again = pickle.loads(pickle.dumps(store))
    assert torch.equal(again.read(1, [], 4).image_tokens, store.read(1, [], 4).image_tokens)


def test_a_loader_process_that_does_not_fork_gets_no_tables(tiny_store):
    """It opens the store again: what is sent does not grow with the store."""
    dataset = FeatureDataset(Store(tiny_store), 4, LossConfig())
    sent = pickle.dumps(dataset)
    assert len(sent) < 1500
    draw = Draw(1, tuple(dataset.store.plan.query_range(1)))
    _, expected, _ = dataset[draw]
    _, found, _ = pickle.loads(sent)[draw]
    assert torch.equal(found.image_embedding, expected.image_embedding)


def test_every_tensor_of_a_batch_is_pinned(tiny_store, monkeypatch):
    """There is no GPU here: a copy stands for memory that one can fetch from."""
    dataset = FeatureDataset(Store(tiny_store), 4, LossConfig(attention_size=16))
    batch = FeatureDataset.collate([dataset[Draw(1, tuple(dataset.store.plan.query_range(1)))]])
    pinned = []

    def pin(values):
        pinned.append(values.clone())
        return pinned[-1]

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    copy = batch.pin_memory()
    assert copy.draws == batch.draws
    features, targets = copy.features, copy.targets
    assert isinstance(targets.masks, list)
    mine = [features.prefix, features.image_tokens, features.image_embeddings]
    texts = features.texts
    mine += [texts.tokens, texts.owner, texts.places, texts.image, texts.last]
    mine += [targets.attention, targets.attention_valid, *targets.masks, *targets.valid]
    assert {id(values) for values in mine} == {id(values) for values in pinned}
    assert torch.equal(features.image_tokens, batch.features.image_tokens)


@pytest.mark.parametrize("remote", [True, False])
def test_behind_a_url_the_images_of_a_batch_are_read_at_the_same_time(tiny_store, remote):
    store, loss = Store(tiny_store), LossConfig(attention_size=16, mask_size=16)
    draws = evaluation_draws(store, None, 4)
    together, names = threading.Barrier(4), set()

    class Slow:
        is_remote, plan = remote, store.plan

        def read(self, *place):
            names.add(threading.current_thread().name)
            if remote:
                together.wait(timeout=60)  # breaks unless all four are here
            return store.read(*place)

    found = FeatureDataset(Slow(), 4, loss).__getitems__(draws)
    assert len(names) == (4 if remote else 1)
    for one, other in zip(
        found, map(FeatureDataset(store, 4, loss).__getitem__, draws), strict=True
    ):
        assert one[0] == other[0]
        assert torch.equal(one[1].image_tokens, other[1].image_tokens)
