"""Batches, and running out of memory."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.packed_decoder import PackedDecoder
from lens_cache.encoders.sam import SamEncoder
from lens_cache.errors import (
    ExtractionError,
)
from lens_cache.extraction.recompute import recompute
from lens_cache.images.decode import read_image
from lens_cache.images.geometry import image_to_square
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from tests.support.data import own_data, photos, photos_from, truncated
from tests.support.stores import (
    Quiet,
    assert_same,
    contents,
    copied,
    extracted,
    settings,
)


@pytest.fixture(scope="module")
def batched_store(tmp_path_factory, tiny_checkpoints):
    """Seven images, the third broken, in shards of four and batches of three; its settings."""
    folder = tmp_path_factory.mktemp("batched")
    data = own_data(folder / "data", photos(2) | {"2.png": truncated()} | photos_from(3, 7))
    config = settings(data, tiny_checkpoints, shard_size=4, images_per_batch=3)
    extracted(folder / "s", config)
    return folder / "s", config


def test_batches_store_what_single_images_do(tmp_path, batched_store):
    root, config = batched_store
    found = recompute(Store(root), config, 100)
    assert len(found) == 6 * 4
    assert [record for record in found if not record.good] == []
    assert verify_store(root).problems == []


@pytest.mark.parametrize("lost", ["commits/hidden_states/000000.json", "commits"])
def test_a_batched_extraction_resumes_to_the_same_bytes(tmp_path, batched_store, lost):
    good, config = batched_store
    root = copied(good, tmp_path / "s")
    shutil.rmtree(root / lost) if (root / lost).is_dir() else (root / lost).unlink()
    workers = dataclasses.replace(config.workers, decode_threads=3)
    extracted(root, dataclasses.replace(config, workers=workers))
    assert_same(root, good)


def failing(monkeypatch, model, fails):
    """Let a model's batches fail where ``fails`` (of the batch's size and content) says so."""
    real = model.encode_batch

    def encode_batch(self, pictures, *rest):
        error = fails(len(pictures), [np.asarray(picture) for picture in pictures])
        if error is not None:
            raise error
        return real(self, pictures, *rest)

    monkeypatch.setattr(model, "encode_batch", encode_batch)


@pytest.fixture
def no_memory_for_the_prefix(monkeypatch):
    """Let the first tries to run the prefix find no memory; returns how many were made."""
    real, tries = PackedDecoder._run_prefix, []

    def arm(failures):
        def run_prefix(self, prefix_ids):
            tries.append(len(tries))
            if len(tries) <= failures:
                raise RuntimeError("[enforce fail at DefaultCPUAllocator] you tried to allocate 9")
            return real(self, prefix_ids)

        monkeypatch.setattr(PackedDecoder, "_run_prefix", run_prefix)
        monkeypatch.setattr("lens_cache.extraction.out_of_memory._PAUSES_SECONDS", (0.0, 0.0))
        return tries

    return arm


def test_memory_that_lacks_for_a_moment_while_the_prefix_runs_is_waited_for(
    tmp_path, batched_store, no_memory_for_the_prefix
):
    good, config = batched_store
    tries = no_memory_for_the_prefix(2)
    extracted(tmp_path / "s", config)
    assert len(tries) == 3
    assert_same(tmp_path / "s", good)


def test_memory_that_never_suffices_for_the_prefix_is_one_line(
    tmp_path, batched_store, no_memory_for_the_prefix
):
    good, config = batched_store
    tries = no_memory_for_the_prefix(100)
    with pytest.raises(ExtractionError, match=r"prefix: memory ran out.*workers\.count") as error:
        extracted(tmp_path / "s", config)
    assert len(tries) == 3
    assert "\n" not in str(error.value)
    tries.clear()
    no_memory_for_the_prefix(0)
    extracted(tmp_path / "s", config)
    assert_same(tmp_path / "s", good)


def test_a_failing_image_costs_its_batch_nothing(tmp_path, batched_store, monkeypatch):
    """The others of its batch are the same bytes as if it had not failed."""
    good, config = batched_store
    square = image_to_square(read_image((config.data.root / "1.png").read_bytes()), 256)

    def fails(size, squares):
        culprit = any(np.array_equal(one, square) for one in squares)
        return RuntimeError("no such kernel") if culprit else None

    failing(monkeypatch, SamEncoder, fails)
    summary = extracted(tmp_path / "s", config)
    model = [record for record in summary.quarantined if record.stage == "model"]
    assert [(r.group, r.path, r.reason) for r in model] == [
        ("image_embeddings", "1.png", "RuntimeError: no such kernel")
    ]
    ours, theirs = Store(tmp_path / "s"), Store(good)
    for image in (0, 3, 4, 5, 6):
        a, b = (store.read(image, [], 4) for store in (ours, theirs))
        assert torch.equal(a.image_embedding, b.image_embedding)
        assert torch.equal(a.image_tokens, b.image_tokens)
    monkeypatch.undo()
    extracted(tmp_path / "s", config, retry_quarantined=True)
    assert_same(tmp_path / "s", good)


def test_memory_that_runs_out_makes_batches_smaller_and_is_told(
    tmp_path, batched_store, monkeypatch
):
    _, config = batched_store

    def fails(size, pictures):
        return torch.OutOfMemoryError("CUDA out of memory") if size > 1 else None

    failing(monkeypatch, LlavaEncoder, fails)
    reporter = Quiet()
    summary = extracted(tmp_path / "s", config, reporter=reporter)
    assert {record.path for record in summary.quarantined} == {"2.png"}
    assert [report.smaller_batches for report in summary.reports] == [{"hidden_states": 1}, {}]
    assert "out of memory: hidden_states continues with 1 images per batch" in reporter.messages
    found = recompute(Store(tmp_path / "s"), config, 100)
    assert [record for record in found if not record.good] == []
    monkeypatch.undo()
    single = dataclasses.replace(config.workers, images_per_batch=1)
    extracted(tmp_path / "one", dataclasses.replace(config, workers=single))
    name = "hidden_states/layer_4/image_tokens/c/0/0/0"
    assert contents(tmp_path / "s")[name] == contents(tmp_path / "one")[name]
