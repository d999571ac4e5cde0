"""A store that is replaced while it is open never gives features of two models."""

import dataclasses

import pytest
import torch

from lens_cache.errors import LensCacheError
from lens_cache.store.convert import convert
from lens_cache.store.store import Store
from tests.support.stores import copied, extracted, settings


@pytest.fixture(params=["zarr", "webdataset"])
def store(request, tmp_path, tiny_store):
    root = tmp_path / "s"
    if request.param == "zarr":
        return copied(tiny_store, root)
    convert(tiny_store, root, wanted="webdataset")
    return root


def read(store, image):
    return store.read(image, store.plan.query_range(image), 4)


def test_a_reader_of_a_replaced_store_is_told(store, tiny_coco, tiny_checkpoints):
    opened = Store(store)
    before = read(opened, 0)
    config = settings(tiny_coco, tiny_checkpoints, dtype="bfloat16")
    config = dataclasses.replace(
        config, store=dataclasses.replace(config.store, format=opened.manifest.format)
    )
    extracted(store, config, replace=("hidden_states", "image_embeddings"))
    # What was mapped before is as it was, and nothing else is read.
    assert torch.equal(read(opened, 0).image_tokens, before.image_tokens)
    with pytest.raises(LensCacheError, match="was replaced after the store was opened"):
        read(opened, opened.plan.num_images - 1)
    assert read(Store(store), 0).image_tokens.dtype == torch.bfloat16


def test_a_reader_of_a_store_that_is_extracted_again_is_not_disturbed(
    store, tiny_coco, tiny_checkpoints
):
    opened = Store(store)
    config = settings(tiny_coco, tiny_checkpoints)
    config = dataclasses.replace(
        config, store=dataclasses.replace(config.store, format=opened.manifest.format)
    )
    extracted(store, config, replace=("hidden_states",))
    for image in range(opened.plan.num_images):
        assert torch.isfinite(read(opened, image).image_tokens).all()
