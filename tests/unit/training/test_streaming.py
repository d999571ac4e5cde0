"""Batches out of tars: what they hold, whose they are, and how a stream goes on."""

import itertools
import os
import pickle
import tarfile
from collections import Counter

import pytest
import torch

from lens_cache.config.train import BatchConfig, LossConfig, MixtureConfig
from lens_cache.errors import ConfigError, CorruptShardError, StoreError
from lens_cache.store.convert import convert
from lens_cache.store.store import Store
from lens_cache.store.webdataset.stream import SampleStream
from lens_cache.training.data import FeatureDataset
from lens_cache.training.sampling import Share
from lens_cache.training.streaming import streaming_loader
from tests.support.stores import copied, flip

LOSS = LossConfig(attention_size=16, mask_size=16)


@pytest.fixture(scope="module")
def tar_store(tmp_path_factory, tiny_store):
    """Five images in tars of 2, 2 and 1; do not write into it."""
    root = tmp_path_factory.mktemp("tars") / "store"
    convert(tiny_store, root, wanted="webdataset")
    return root


def loader(store, *, batches=8, seed=0, rank=0, world=1, start=0, **batch):
    batch = {"images": 2, "queries_per_image": 2, "loader_workers": 0, "shuffle_buffer": 3} | batch
    return streaming_loader(
        store if isinstance(store, Store) else Store(store),
        layer=4,
        loss=LOSS,
        batch=BatchConfig(**batch),
        share=Share(num_batches=batches, seed=seed, rank=rank, world=world, start=start),
    )


def draws(store, **options):
    return [batch.draws for batch in loader(store, **options)]


@pytest.fixture
def opened(monkeypatch):
    """The shards that are streamed, in order."""
    shards, read = [], SampleStream.read

    def noting(self, shard, images):
        shards.append(shard)
        return read(self, shard, images)

    monkeypatch.setattr(SampleStream, "read", noting)
    return shards


def test_a_streamed_batch_is_what_random_access_reads(tiny_store, tar_store):
    dataset = FeatureDataset(Store(tiny_store), 4, LOSS)
    for batch in loader(tar_store):
        expected = FeatureDataset.collate([dataset[draw] for draw in batch.draws])
        assert batch.features.num_questions == expected.features.num_questions
        for name in ("prefix", "image_tokens", "image_embeddings"):
            assert torch.equal(getattr(batch.features, name), getattr(expected.features, name))
        assert torch.equal(batch.features.texts.tokens, expected.features.texts.tokens)
        assert torch.equal(batch.features.texts.owner, expected.features.texts.owner)
        assert torch.equal(batch.targets.attention, expected.targets.attention)
        assert all(map(torch.equal, batch.targets.masks, expected.targets.masks))


def test_every_image_comes_once_per_pass_and_every_pass_is_another(tar_store):
    plan = Store(tar_store).plan
    seen = [draw for batch in draws(tar_store, batches=25, shuffle_buffer=1) for draw in batch]
    passes = [[draw.image for draw in seen[i : i + 5]] for i in range(0, 50, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert len({tuple(one) for one in passes}) > 2
    for draw in seen:
        own = plan.query_range(draw.image)
        assert len(draw.queries) == min(2, len(own)) == len(set(draw.queries))
        assert set(draw.queries) <= set(own)
    assert len({draw.queries for draw in seen if draw.image == 0}) > 1


def test_the_buffer_mixes_images_of_different_tars(tar_store):
    """Without it neighbours in a tar stay neighbours."""
    plain = [d.image for b in draws(tar_store, batches=20, shuffle_buffer=1) for d in b]
    mixed = [d.image for b in draws(tar_store, batches=20, shuffle_buffer=4) for d in b]
    assert {two for one, two in itertools.pairwise(plain) if one == 0} == {1}
    assert len({two for one, two in itertools.pairwise(mixed) if one == 0}) > 1
    assert max(Counter(mixed).values()) - min(Counter(mixed).values()) <= 4


def test_seeds_differ_and_equal_seeds_do_not(tar_store):
    assert draws(tar_store, seed=1) == draws(tar_store, seed=1)
    assert draws(tar_store, seed=1) != draws(tar_store, seed=2)


def test_ranks_share_the_tars_and_have_equally_many_batches(tar_store, opened):
    streams, tars = [], []
    for rank in range(2):
        streams.append(draws(tar_store, rank=rank, world=2, batches=6, shuffle_buffer=1))
        tars.append(list(opened))
        opened.clear()
    assert [len(stream) for stream in streams] == [6, 6]
    dealt = [shard for pair in zip(*tars, strict=False) for shard in pair]
    assert sorted(dealt[:3]) == sorted(dealt[3:6]) == [0, 1, 2]


def test_more_ranks_than_tars_all_have_work(tar_store):
    assert [len(draws(tar_store, rank=rank, world=7, batches=3)) for rank in range(7)] == [3] * 7


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 4, 7, 8])
def test_a_resumed_stream_goes_on_as_an_uninterrupted_one(tar_store, start, workers):
    whole = list(loader(tar_store, loader_workers=workers))
    again = list(loader(tar_store, loader_workers=workers, start=start))
    assert [batch.draws for batch in again] == [batch.draws for batch in whole][start:]
    for one, other in zip(again, whole[start:], strict=True):
        assert torch.equal(one.features.image_tokens, other.features.image_tokens)
        assert torch.equal(one.features.texts.tokens, other.features.texts.tokens)
        assert all(map(torch.equal, one.targets.masks, other.targets.masks))


def test_what_was_drawn_before_is_not_read_again(tar_store, opened):
    list(loader(tar_store, batches=40))
    whole = list(opened)
    opened.clear()
    list(loader(tar_store, batches=40, start=38))
    assert opened == whole[-len(opened) :]
    assert len(opened) <= 4 < len(whole)


def test_only_what_is_asked_for_is_streamed(tar_store, opened):
    seen = {d.image for batch in draws(tar_store, limit_images=3) for d in batch}
    assert seen == {0, 1, 2}
    assert set(opened) == {0, 1}
    with pytest.raises(StoreError, match="choosing split 'val'"):
        loader(tar_store, split="val")


def test_what_cannot_be_streamed_is_refused(tiny_store, tar_store):
    with pytest.raises(ConfigError, match=r"convert STORE DEST --format webdataset"):
        loader(tiny_store)
    mixture = (MixtureConfig(rate=1, datasets=("coco",)),)
    for wrong in ({"mixture": mixture}, {"window": 2}):
        with pytest.raises(ConfigError, match=r"needs random access; set batch.order"):
            loader(tar_store, **wrong)


@pytest.mark.parametrize("damage", ["flip", "cut", "cut at a member", "lost", "link"])
def test_damage_stops_the_stream_and_is_named(tmp_path, tar_store, damage):
    root = copied(tar_store, tmp_path / "s")
    path, image = root / "samples/000001.tar", Store(root).plan.image(3).image_id
    with tarfile.open(path) as tar:
        member = tar.getmember(f"{image}.layer_4.image_tokens.npy")
    if damage == "flip":
        flip(path, at=member.offset_data + 300)
    elif damage == "cut":
        os.truncate(path, member.offset_data + 300)
    elif damage == "cut at a member":
        os.truncate(path, member.offset)
    elif damage == "lost":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        header = tarfile.TarInfo.frombuf(bytes(data[member.offset :][:512]), "ascii", "strict")
        header.type, header.linkname, header.size = tarfile.SYMTYPE, "/etc/passwd", 0
        data[member.offset : member.offset + 512] = header.tobuf(tarfile.USTAR_FORMAT)
        path.write_bytes(data)
    with pytest.raises(CorruptShardError, match=r"000001\.tar") as caught:
        list(loader(root))
    assert "\n" not in str(caught.value)


def test_a_loader_process_that_does_not_fork_makes_its_own_tables(tar_store):
    stream = loader(tar_store, start=2).dataset
    sent = pickle.dumps(stream)
    assert len(sent) < 3000
    again = [batch.draws for batch in pickle.loads(sent)]
    assert again == [batch.draws for batch in stream]
    assert len(again) == 6
