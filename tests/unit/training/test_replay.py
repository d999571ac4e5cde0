"""Training on the draws that a plan holds: in its order, shared out, resumed, without an end."""

import dataclasses
from itertools import islice

import pyarrow as pa
import pytest

from lens_cache.config.train import BatchConfig, LossConfig, MixtureConfig
from lens_cache.errors import ConfigError
from lens_cache.plan.schema import DRAWS
from lens_cache.store.store import Store
from lens_cache.training.data import training_loader
from lens_cache.training.replay import ReplaySampler, replayed_draws
from lens_cache.training.sampling import Draw, Share

# Queries of each draw, as positions among those of an image: one out of order, one empty.
ASKED = [(0, [1, 0]), (3, [2]), None, (1, [0, 1, 2]), (0, [1]), (4, [0]), (2, [1, 2])]


@pytest.fixture
def store(tiny_store):
    """A store whose plan holds seven draws, of which one has no image."""
    store = Store(tiny_store)
    plan = store.plan
    ids = plan.queries["query_id"].to_pylist()
    rows = [
        [] if asked is None else [ids[plan.query_range(asked[0])[place]] for place in asked[1]]
        for asked in ASKED
    ]
    table = pa.table({"draw": range(len(rows)), "queries": rows}).rename_columns(DRAWS.names)
    store.plan = dataclasses.replace(plan, draws=table.cast(DRAWS))
    return store


def drawn(store):
    """What ``Plan.drawn`` says of every draw that asks something."""
    numbers = range(store.plan.draws.num_rows)
    return [asked for asked in map(store.plan.drawn, numbers) if asked]


def stream(store, *, size=2, batches=9, rank=0, world=1, start=0):
    share = Share(num_batches=batches, seed=0, rank=rank, world=world, start=start)
    return list(ReplaySampler(replayed_draws(store, BatchConfig()), size, share))


def test_the_stream_is_the_plans_and_starts_again_at_its_end(store):
    draws = [draw for batch in stream(store) for draw in batch]
    assert [list(draw.queries) for draw in draws] == drawn(store) * 3
    assert [draw.image for draw in draws] == [0, 3, 1, 0, 4, 2] * 3


@pytest.mark.parametrize("size", [1, 2, 4])
def test_ranks_share_it_without_a_draw_in_common(store, size):
    ranks = [stream(store, size=size, batches=6, rank=rank, world=2) for rank in (0, 1)]
    steps = zip(*ranks, strict=True)
    together = [draw for step in steps for pair in zip(*step, strict=True) for draw in pair]
    alone = [draw for batch in stream(store, size=size, batches=12) for draw in batch]
    assert together == alone


@pytest.mark.parametrize("start", [1, 4, 8, 9])
def test_a_resumed_stream_goes_on_where_it_stopped(store, start):
    assert stream(store, start=start) == stream(store)[start:]


def test_an_image_that_was_set_aside_at_extraction_is_passed_over(store):
    store._missing = {store.plan.image(0).image_id}
    draws = [draw.image for batch in stream(store, batches=2) for draw in batch]
    assert draws == [3, 1, 4, 2]


def test_the_loader_reads_the_drawn_questions(store):
    batch = BatchConfig(order="draws", images=2, queries_per_image=1, loader_workers=0)
    loss = LossConfig(attention_size=16, mask_size=16)
    share = Share(num_batches=3, seed=0)
    batches = list(islice(training_loader(store, layer=4, loss=loss, batch=batch, share=share), 3))
    assert [draw for each in batches for draw in each.draws] == [
        Draw(store.plan.query_owner(asked[0]), tuple(asked)) for asked in drawn(store)
    ]
    assert [len(each.targets.masks) for each in batches] == [3, 4, 3]


@pytest.mark.parametrize(
    ("batch", "named"),
    [
        ({"mixture": (MixtureConfig(rate=1, datasets=("coco",)),)}, "mixture"),
        ({"window": 2}, "window"),
        ({"limit_images": 3}, "limit_images"),
        ({"split": "val"}, "split"),
    ],
)
def test_what_would_choose_too_is_refused(store, batch, named):
    with pytest.raises(ConfigError, match=rf"batch\.{named} cannot be used; remove it") as caught:
        replayed_draws(store, BatchConfig(order="draws", **batch))
    assert "\n" not in str(caught.value)


def test_a_training_split_is_what_draws_are_of(store):
    assert len(replayed_draws(store, BatchConfig(split="train"))) == 6


def test_a_plan_without_draws_is_refused(tiny_store):
    with pytest.raises(ConfigError, match=r"its plan has none; extract with .*data\.lisa\.draws"):
        replayed_draws(Store(tiny_store), BatchConfig(order="draws"))


def test_nothing_is_left_to_replay(store):
    empty = pa.table({"draw": [0], "queries": [[]]}).rename_columns(DRAWS.names).cast(DRAWS)
    store.plan = dataclasses.replace(store.plan, draws=empty)
    with pytest.raises(ConfigError, match="no drawn image could be extracted"):
        replayed_draws(store, BatchConfig())
