"""Stores of features in fp8 and int8: extraction, conversion, reading, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from lens_cache.config.extract import PrecisionConfig
from lens_cache.errors import ConfigError, StoreMismatchError
from lens_cache.extraction.recompute import recompute
from lens_cache.store.commits import commit_path
from lens_cache.store.convert import convert
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from lens_cache.store.webdataset.stream import SampleStream
from tests.support.data import own_data, photos, truncated
from tests.support.stores import assert_same, copied, extracted, flip, settings


def stored_as(config, hidden_states="int8", image_embeddings="fp8", name="zarr"):
    precision = PrecisionConfig(hidden_states=hidden_states, image_embeddings=image_embeddings)
    store = dataclasses.replace(config.store, precision=precision, format=name)
    return dataclasses.replace(config, store=store)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_checkpoints):
    """Settings, and a store in the model's precision with one image that cannot be read."""
    folder = tmp_path_factory.mktemp("plain")
    data = own_data(folder / "data", photos(4) | {"4.png": truncated()})
    config = settings(data, tiny_checkpoints, dtype="bfloat16", shard_size=2)
    extracted(folder / "store", config)
    return folder / "store", config


@pytest.fixture(scope="module")
def small(tmp_path_factory, plain):
    """The same extracted in int8 and fp8; do not write into it."""
    root = tmp_path_factory.mktemp("small") / "store"
    extracted(root, stored_as(plain[1]))
    return root


@pytest.mark.parametrize("name", ["zarr", "webdataset"])
def test_a_conversion_writes_what_an_extraction_would(tmp_path, plain, name):
    store, config = plain
    extracted(tmp_path / "extracted", stored_as(config, name=name))
    convert(
        store,
        tmp_path / "converted",
        wanted=name,
        hidden_states="int8",
        image_embeddings="fp8",
    )
    assert_same(tmp_path / "extracted", tmp_path / "converted")
    assert not verify_store(tmp_path / "converted").problems


def test_a_conversion_goes_on_where_it_was_interrupted(tmp_path, plain, small):
    root = copied(small, tmp_path / "store")
    commit_path(root, "hidden_states", 1).unlink()
    done = convert(plain[0], root, hidden_states="int8", image_embeddings="fp8")
    assert done.converted == 1
    assert_same(root, small)


def test_the_store_is_smaller_and_its_features_are_near(plain, small):
    one, other = Store(plain[0]), Store(small)
    for image in one.images(None):
        queries = one.plan.query_range(image)
        here, there = one.read(image, queries, 4), other.read(image, queries, 4)
        assert torch.equal(here.prefix, there.prefix)
        for a, b, most in (
            (here.image_tokens, there.image_tokens, 0.02),
            (torch.cat([*here.text_tokens]), torch.cat([*there.text_tokens]), 0.02),
            (here.image_embedding, there.image_embedding, 0.04),
        ):
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            error = (a.double() - b.double()).norm() / a.double().norm()
            assert 0 < error < most
    for name in ("layer_4/image_tokens", "image_embeddings"):
        assert other.features.spec(name).row_bytes < 0.6 * one.features.spec(name).row_bytes


def whole(store, name, image):
    return store.features.tensor(name, store.features.chunk(name, image))


def test_streamed_and_random_reads_agree(tmp_path, small):
    convert(small, tmp_path / "tars", wanted="webdataset")
    store, names = Store(tmp_path / "tars"), ["layer_4/image_tokens", "image_embeddings"]
    images = [image for image in store.images(None) if image < 2]
    for image, values in SampleStream(store.root, store.catalogue, names).read(0, images):
        for name in names:
            streamed = store.features.tensor(name, np.array(values[name]))
            assert torch.equal(streamed, whole(store, name, image))
            assert torch.equal(streamed, whole(Store(small), name, image))


def test_the_bytes_of_a_token_are_as_documented(small):
    store = Store(small)
    spec = store.features.spec("layer_4/image_tokens")
    assert dataclasses.asdict(spec.code) == {
        "precision": "int8",
        "dtype": "bfloat16",
        "channels": spec.shape[2] - 8,
    }
    image, d = store.images(None)[0], spec.code.channels
    raw = np.array(store.features.chunk("layer_4/image_tokens", image)).reshape(spec.shape[1:])
    steps, scale = raw[:, :d].view(np.int8), raw[:, d : d + 4].copy().view(np.float32)
    values = torch.from_numpy(steps * scale).bfloat16()
    outliers = torch.from_numpy(raw[:, d + 4 : d + 6].copy()).view(torch.bfloat16)
    numbers = raw[:, d + 6 :].copy().view(np.uint16).astype(np.int64)
    values.scatter_(1, torch.from_numpy(numbers), outliers)
    assert torch.equal(values, whole(store, "layer_4/image_tokens", image))


def test_recomputing_admits_the_rounding_and_nothing_more(tmp_path, plain, small):
    config = stored_as(plain[1])
    assert all(found.good for found in recompute(Store(small), config, 3))
    spoilt = copied(small, tmp_path / "spoilt")
    array = Store(spoilt).features.spec("layer_4/image_tokens")
    for shard in (0, 1):
        path = spoilt / array.object_path(shard)
        if path.exists():
            for at in range(0, 40 * array.code.token_bytes, array.code.token_bytes):
                flip(path, at + array.code.channels + 3)  # the exponent of the scale
    found = recompute(Store(spoilt), config, 8)
    assert {agreement.array for agreement in found if not agreement.good} == {
        "layer_4/image_tokens"
    }


def test_two_precisions_never_meet_in_one_store(tmp_path, plain, small):
    root = copied(small, tmp_path / "store")
    with pytest.raises(StoreMismatchError, match="precision is int8 in the store and model here"):
        extracted(root, plain[1])
    with pytest.raises(ConfigError, match="stored as fp8, so it cannot become int8; extract"):
        convert(root, tmp_path / "x", image_embeddings="int8")
    with pytest.raises(ConfigError, match="in this precision already"):
        convert(root, tmp_path / "x", hidden_states="int8")
    extracted(root, stored_as(plain[1], hidden_states="fp8"), replace=("hidden_states",))
    extracted(tmp_path / "fresh", stored_as(plain[1], hidden_states="fp8"))
    assert_same(root, tmp_path / "fresh")
