"""What a store has: the features of the frozen models, in files that any client can open."""

import dataclasses

import numpy as np
import pytest
import torch
import zarr

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.sam import SamEncoder
from lens_cache.extraction.recompute import recompute
from lens_cache.images.decode import read_image
from lens_cache.images.geometry import image_to_square
from lens_cache.store.manifest import with_overrides
from lens_cache.store.store import Store
from pipelines.extraction.verify import check
from tests.support.stores import (
    Quiet,
    contents,
    extracted,
    settings,
)


def test_features_are_the_encoders_outputs(tiny_store, tiny_coco, tiny_checkpoints):
    store = Store(tiny_store)
    llava = LlavaEncoder.from_checkpoint(
        tiny_checkpoints / "llava", layers=[4], dtype=torch.float32
    )
    sam = SamEncoder.from_checkpoint(tiny_checkpoints / "sam.pth", dtype=torch.float32)
    for index in range(store.plan.num_images):
        queries = list(store.plan.query_range(index))
        image = store.plan.image(index)
        square = image_to_square(read_image((tiny_coco / image.path).read_bytes()), 256)
        tokens = [
            llava.prompt.token_ids(query.question).text_ids
            for query in store.plan.queries_of(index)
        ]
        expected, found = llava.encode(square, tokens), store.read(index, queries, 4)
        torch.testing.assert_close(found.prefix, expected.prefix[4], rtol=1e-4, atol=1e-5)
        assert torch.equal(found.image_tokens, expected.image_tokens[4])
        assert len(found.text_tokens) == len(tokens)
        for ours, theirs in zip(found.text_tokens, expected.text_tokens[4], strict=True):
            assert torch.equal(ours, theirs)
        embedding = sam.encode(square, width=image.width, height=image.height)
        assert torch.equal(found.image_embedding, embedding)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_features_are_the_plain_forward(tmp_path, tiny_coco, tiny_checkpoints, dtype):
    """Invariant I3: every record of a store of two layers."""
    config = settings(tiny_coco, tiny_checkpoints, layers=(3, 14), dtype=dtype, shard_size=3)
    extracted(tmp_path / "store", config)
    found = check(
        tmp_path / "store",
        recompute_count=1000,
        overrides=(),
        seed=0,
        device="cpu",
        progress=Quiet().progress,
    )
    assert found.good
    assert len(found.agreements) == Store(tmp_path / "store").plan.num_queries * 7
    assert {record.array for record in found.agreements} == {
        *(f"layer_{n}/{k}" for n in (3, 14) for k in ("prefix", "image_tokens", "text_tokens")),
        "image_embeddings",
    }


def test_recomputing_notices_features_of_another_image(tmp_path, tiny_store):
    """Bytes that were stored soundly, but for the wrong image: only I3 can tell."""
    store = Store(tiny_store)
    read = store.read
    store.read = lambda image, queries, layer: dataclasses.replace(
        read(image, queries, layer), image_tokens=read((image + 1) % 5, queries, layer).image_tokens
    )
    found = recompute(store, with_overrides(store.manifest), 3)
    assert {record.array for record in found if not record.good} == {"layer_4/image_tokens"}


def test_any_zarr_client_opens_a_store(tiny_store):
    store, group = Store(tiny_store), zarr.open_group(tiny_store, mode="r")
    tokens = group["hidden_states/layer_4/image_tokens"]
    embeddings = group["image_embeddings"]
    text = group["hidden_states/layer_4/text_tokens"]
    assert tokens.metadata.dimension_names == ("image", "token", "channel")
    assert tokens.attrs["dtype"] == "float32"
    for index in range(5):
        (query, *_) = store.plan.query_range(index)
        found = store.read(index, [query], 4)
        np.testing.assert_array_equal(tokens[index], found.image_tokens)
        np.testing.assert_array_equal(embeddings[index], found.image_embedding)
        start = store.questions.offsets[query]
        stop = start + len(store.questions.token_ids[query])
        np.testing.assert_array_equal(text[start:stop], found.text_tokens[0])
    np.testing.assert_array_equal(group["hidden_states/layer_4/prefix"][:], found.prefix)


def test_bfloat16_is_stored_as_its_bits(tmp_path, tiny_coco, tiny_checkpoints):
    extracted(tmp_path / "s", settings(tiny_coco, tiny_checkpoints, dtype="bfloat16"))
    array = zarr.open_group(tmp_path / "s", mode="r")["image_embeddings"]
    assert (array.dtype, array.attrs["dtype"]) == (np.float32, "bfloat16")
    store = Store(tmp_path / "s")
    found = store.read(1, [], 4).image_embedding
    assert found.dtype == torch.bfloat16
    np.testing.assert_array_equal(array[1], found.float())
    bits = np.array(store.features.chunk("image_embeddings", 1)).view(np.int16)
    assert torch.equal(torch.from_numpy(bits).view(torch.bfloat16).view(found.shape), found)


def test_nothing_of_a_store_is_a_pickle(tiny_store):
    suffixes = {path.suffix for path in tiny_store.rglob("*") if path.is_file()}
    assert suffixes <= {"", ".json", ".parquet", ".safetensors", ".jsonl", ".yaml"}
    # A pickle begins with its protocol and ends with STOP; features begin with any byte.
    pickles = [
        name
        for name, data in contents(tiny_store).items()
        if data[:1] == b"\x80" and data[1:2] <= b"\x05" and data.endswith(b".")
    ]
    assert pickles == []
