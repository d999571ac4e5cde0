"""What is drawn when: passes, mixtures, windows, and streams that go on where they stopped."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.config.data import LISA_SETS, RatesConfig
from lens_cache.config.load import load_config
from lens_cache.config.train import BatchConfig, MixtureConfig, TrainConfig
from lens_cache.errors import ConfigError
from lens_cache.store.store import Store
from lens_cache.training.sampling import DrawSampler, Share, Source, shuffled, sources
from tests.support import REPOSITORY

worlds = st.fixed_dictionaries(
    {
        "counts": st.lists(st.integers(1, 6), min_size=1, max_size=20),
        "size": st.integers(1, 4),
        "per_image": st.integers(1, 4),
        "world": st.integers(1, 4),
        "seed": st.integers(0, 2**40),
        "batches": st.integers(1, 20),
    }
)


def source(counts, name="all", rate=1.0, first=0, shard=3):
    """Image i is plan image 10 i, its queries are 100 i + 0, 1, ...; some images to a shard."""
    numbers = range(first, first + len(counts))
    return Source(
        name,
        rate,
        [10 * i for i in numbers],
        [
            tuple(100 * i + q for q in range(count))
            for i, count in zip(numbers, counts, strict=True)
        ],
        np.array([i // shard for i in numbers]),
    )


def samplers(counts, size, per_image, world, seed, batches, start=0):
    """One sampler per rank."""
    return [
        DrawSampler(
            [source(counts)],
            BatchConfig(images=size, queries_per_image=per_image),
            Share(num_batches=batches, seed=seed, rank=rank, world=world, start=start),
        )
        for rank in range(world)
    ]


@settings(deadline=None)
@given(worlds)
def test_all_ranks_together_see_every_image_once_per_pass(world):
    streams = [list(sampler) for sampler in samplers(**world)]
    assert all(len(stream) == world["batches"] for stream in streams)
    assert all(len(batch) == world["size"] for stream in streams for batch in stream)
    in_order = [
        draw
        for step in zip(*streams, strict=True)
        for draws in zip(*step, strict=True)
        for draw in draws
    ]
    number = len(world["counts"])
    for start in range(0, len(in_order), number):
        turn = Counter(draw.image for draw in in_order[start : start + number])
        assert max(turn.values()) == 1
        if start + number <= len(in_order):
            assert len(turn) == number


@settings(deadline=None)
@given(worlds)
def test_queries_are_the_images_own_without_repetition(world):
    for sampler in samplers(**world):
        for draw in (draw for batch in sampler for draw in batch):
            image = draw.image // 10
            assert len(draw.queries) == min(world["per_image"], world["counts"][image])
            assert len(set(draw.queries)) == len(draw.queries)
            own = {100 * image + q for q in range(world["counts"][image])}
            assert set(draw.queries) <= own


@settings(deadline=None)
@given(worlds, st.data())
def test_a_resumed_stream_goes_on_as_an_uninterrupted_one(world, data):
    start = data.draw(st.integers(0, world["batches"]))
    for whole, again in zip(samplers(**world), samplers(**world, start=start), strict=True):
        assert list(again) == list(whole)[start:]
        assert len(again) == len(whole) == world["batches"]
        assert list(again) == list(whole)[start:]


def test_seeds_and_passes_differ():
    world = {"counts": [3] * 30, "size": 30, "per_image": 1, "world": 1, "batches": 2}
    (first,), (second,) = samplers(**world, seed=0), samplers(**world, seed=1)
    one, two = list(first)
    assert [draw.image for draw in one] != [draw.image for draw in two]
    assert one != next(iter(second))
    queries = {(draw.image, draw.queries) for draw in one}
    assert queries != {(draw.image, draw.queries) for draw in two}


# Mixtures


def mixed(batches=2000, rank=0, world=1, start=0, seed=0, size=2):
    """Draws from 30 images at rate 3 and 4 images, numbers 100 to 103, at rate 1."""
    return DrawSampler(
        [source([2] * 30, rate=3.0), source([1] * 4, "other", rate=1.0, first=100)],
        BatchConfig(images=size, queries_per_image=2),
        Share(num_batches=batches, seed=seed, rank=rank, world=world, start=start),
    )


def images(sampler):
    return [draw.image // 10 for batch in sampler for draw in batch]


def test_sources_take_turns_at_their_rates():
    drawn = images(mixed(batches=5000))
    share = sum(image >= 100 for image in drawn) / len(drawn)
    assert abs(share - 0.25) < 0.02


def test_every_source_comes_in_passes_of_its_own():
    drawn = images(mixed())
    for mine, size in (([i for i in drawn if i < 100], 30), ([i for i in drawn if i >= 100], 4)):
        whole = len(mine) // size
        for turn in range(whole):
            assert len(set(mine[turn * size : (turn + 1) * size])) == size


@pytest.mark.parametrize("start", [1, 1023, 1024, 1999])
def test_a_mixture_goes_on_where_it_stopped(start):
    assert list(mixed(start=start)) == list(mixed())[start:]


def test_ranks_share_one_stream_without_a_draw_in_common():
    ranks = [list(mixed(batches=500, rank=rank, world=3)) for rank in range(3)]
    alone = [draw for batch in mixed(batches=1500, size=1) for draw in batch][: 3 * 500]
    together = [
        draw
        for step in zip(*ranks, strict=True)
        for draws in zip(*step, strict=True)
        for draw in draws
    ]
    assert together[: len(alone)] == alone


def test_a_window_reads_each_shard_once_and_in_one_stretch():
    shards = np.repeat(np.arange(12), 5)
    order = shuffled(shards, 3, np.random.default_rng(0))
    assert sorted(order) == list(range(60))
    for start in range(0, 60, 15):
        assert len(set(shards[order[start : start + 15]])) == 3
    within = shards[order[:15]]
    assert (np.diff(within) != 0).sum() > 5  # its images are mixed


def test_a_mixture_is_made_of_the_datasets_of_a_store(tiny_store):
    store = Store(tiny_store)
    found = sources(store, BatchConfig(mixture=(MixtureConfig(rate=2, datasets=("coco",)),)))
    assert [(source.name, source.rate) for source in found] == [("coco", 2.0)]
    assert found[0].images == store.images(None)
    with pytest.raises(ConfigError, match=r"batch\.mixture: ade20k has no image in the split; the"):
        sources(store, BatchConfig(mixture=(MixtureConfig(rate=1, datasets=("ade20k",)),)))
    twice = MixtureConfig(rate=1, datasets=("coco", "coco"))
    with pytest.raises(ConfigError, match="coco is listed twice"):
        sources(store, BatchConfig(mixture=(twice,)))


def test_the_mixture_that_comes_with_the_package_is_lisas():
    config = load_config(TrainConfig, REPOSITORY / "configs/train/lisa.yaml")
    rates = RatesConfig()
    assert [group.rate for group in config.batch.mixture] == [
        rates.semantic,
        rates.referring,
        rates.reasoning,
    ]
    assert [name for group in config.batch.mixture for name in group.datasets] == list(LISA_SETS)
