import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import zarr
from PIL import Image

from lens_cache.config.data import DataConfig
from lens_cache.encoders.llava import LlavaEncoder
from lens_cache.encoders.packed_decoder import PackedDecoder
from lens_cache.encoders.sam import SamEncoder
from lens_cache.errors import (
    CheckpointError,
    ConfigError,
    CorruptShardError,
    ExtractionError,
    StoreError,
    StoreMismatchError,
)
from lens_cache.extraction.extractor import ShardExtractor
from lens_cache.extraction.recompute import recompute
from lens_cache.images.decode import content_id, read_image
from lens_cache.images.geometry import image_to_square
from lens_cache.store.commits import commit_path
from lens_cache.store.io.files import read_json, write_json, writer_lock
from lens_cache.store.manifest import Manifest, with_overrides
from lens_cache.store.quarantine import Quarantine, quarantined
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from lens_cache.store.zarr.writer import GroupShardWriter
from lens_cache.toy.random_checkpoints import write_tiny_checkpoints
from pipelines.extraction.dry_run import dry_run
from pipelines.extraction.extract import plan_store
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import check, repair_store
from tests.support.pictures import box_polygon, colours, encoded, rotated, write_coco
from tests.support.stores import (
    Quiet,
    assert_same,
    contents,
    copied,
    extracted,
    flip,
    settings,
    stamps,
)


def own_data(root, pictures):
    """Write a JSONL dataset; ``pictures`` are files' contents by name."""
    root.mkdir(parents=True)
    lines = []
    for name, data in pictures.items():
        (root / name).write_bytes(data)
        mask = {"polygons": [box_polygon(0, 0, 1, 1)]}
        lines.append(json.dumps({"image": name, "instruction": "the box", "mask": mask}))
    (root / "data.jsonl").write_text("\n".join(lines))
    return DataConfig(kind="jsonl", root=root)


def photos(count, width=40, height=30):
    return {f"{n}.png": encoded(colours(width, height, seed=n)) for n in range(count)}


def truncated(seed=99):
    return encoded(colours(64, 48, seed=seed))[:-2000]


# What a store holds


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


# Determinism and resuming


def test_two_extractions_are_the_same_bytes(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    extracted(tmp_path / "s", settings(tiny_coco, tiny_checkpoints, decode_threads=3))
    assert_same(tmp_path / "s", tiny_store)


def test_a_finished_store_is_left_alone(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    root = copied(tiny_store, tmp_path / "s")
    before = {name: stamp for name, stamp in stamps(root).items() if "manifest" not in name}
    summary = extracted(root, settings(tiny_coco, tiny_checkpoints))
    assert summary.reports == []
    after = stamps(root)
    moved = [name for name in before if before[name] != after[name]]
    assert [name for name in moved if "/c/" in name or "commits/" in name or "plan/" in name] == []
    assert_same(root, tiny_store)


@pytest.mark.parametrize(
    "lost",
    [
        ["commits/hidden_states/000001.json"],
        ["commits/image_embeddings/000000.json", "commits/hidden_states/000002.json"],
        ["commits", "hidden_states", "image_embeddings"],
        ["commits/shared/000000.json"],
        ["plan"],
        ["frozen"],
        ["hidden_states/questions.parquet", "zarr.json", "commits/shared/000000.json"],
    ],
    ids=lambda lost: "+".join(lost),
)
def test_an_extraction_goes_on_where_it_was(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints, lost
):
    root = copied(tiny_store, tmp_path / "s")
    for name in lost:
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
    (root / "tmp").mkdir()
    (root / "tmp/left_by_a_killed_writer").write_bytes(b"half")
    extracted(root, settings(tiny_coco, tiny_checkpoints))
    assert_same(root, tiny_store)


def test_shards_without_a_manifest_are_refused(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    root = copied(tiny_store, tmp_path / "s")
    (root / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"holds shards but no manifest\.json"):
        extracted(root, settings(tiny_coco, tiny_checkpoints))
    assert (root / "commits/hidden_states/000000.json").exists()


def test_an_unfinished_store_is_not_opened(tmp_path, tiny_coco, tiny_checkpoints):
    class Stop(Exception):
        pass

    def half(run, ledger):
        extractor = ShardExtractor(run.root, run.config, run.groups, "cpu")
        task = ledger.next()
        run.on_report(extractor.extract(task.shard, task.groups))
        raise Stop

    root, config = tmp_path / "s", settings(tiny_coco, tiny_checkpoints)
    with pytest.raises(Stop):
        extracted(root, config, runner=half)
    with pytest.raises(StoreError, match="has not finished; run the same `lens-cache extract`"):
        Store(root)
    found = verify_store(root)
    assert {(p.group, p.shard) for p in found.problems if p.what == "not extracted yet"} == {
        (group, shard) for group in ("hidden_states", "image_embeddings") for shard in (1, 2)
    }
    reporter = Quiet()
    summary = extracted(root, config, reporter=reporter)
    assert [report.shard for report in summary.reports] == [1, 2]
    assert reporter.steps[-1] == ("extract", 3, 3)


def test_a_lost_commit_closes_the_store_to_readers(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints
):
    root = copied(tiny_store, tmp_path / "s")
    commit_path(root, "hidden_states", 1).unlink()

    def nothing(run, ledger):
        with pytest.raises(StoreError, match="has not finished"):
            Store(root)

    with pytest.raises(ExtractionError, match=r"1 shards of .* are not committed"):
        extracted(root, settings(tiny_coco, tiny_checkpoints), runner=nothing)


@pytest.mark.parametrize("group", ["hidden_states", "image_embeddings"])
def test_one_group_is_replaced_and_the_other_kept(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints, group
):
    root = copied(tiny_store, tmp_path / "s")
    before, stamped = contents(root), stamps(root)
    config = settings(tiny_coco, tiny_checkpoints)
    if group == "hidden_states":
        change = dataclasses.replace(config.encoders.llava, layers=(2, 6))
        encoders = dataclasses.replace(config.encoders, llava=change)
    else:
        change = dataclasses.replace(config.encoders.sam, dtype="bfloat16")
        encoders = dataclasses.replace(config.encoders, sam=change)
    config = dataclasses.replace(config, encoders=encoders)
    with pytest.raises(StoreMismatchError, match=f"--replace {group}"):
        extracted(root, config)
    assert contents(root) == before
    summary = extracted(root, config, replace=(group,))
    assert len(summary.reports) == 3
    assert all(("llava" in r.seconds) == (group == "hidden_states") for r in summary.reports)
    after, restamped = contents(root), stamps(root)
    other = {"hidden_states": "image_embeddings", "image_embeddings": "hidden_states"}[group]
    kept = [n for n in before if n.startswith((f"{other}/", f"commits/{other}/")) and "/c/" in n]
    assert kept
    assert all(after[n] == before[n] and restamped[n] == stamped[n] for n in kept)
    extracted(tmp_path / "new", config)
    assert_same(root, tmp_path / "new")
    assert verify_store(root).problems == []


# Batches


@pytest.fixture(scope="module")
def batched_store(tmp_path_factory, tiny_checkpoints):
    """Seven images, the third broken, in shards of four and batches of three; its settings."""
    folder = tmp_path_factory.mktemp("batched")
    data = own_data(folder / "data", photos(2) | {"2.png": truncated()} | photos_from(3, 7))
    config = settings(data, tiny_checkpoints, shard_size=4, images_per_batch=3)
    extracted(folder / "s", config)
    return folder / "s", config


def photos_from(start, stop):
    return {name: data for name, data in photos(stop).items() if int(name[:-4]) >= start}


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
    assert "memory ran out: hidden_states goes on with 1 images per batch" in reporter.messages
    found = recompute(Store(tmp_path / "s"), config, 100)
    assert [record for record in found if not record.good] == []
    monkeypatch.undo()
    single = dataclasses.replace(config.workers, images_per_batch=1)
    extracted(tmp_path / "one", dataclasses.replace(config, workers=single))
    name = "hidden_states/layer_4/image_tokens/c/0/0/0"
    assert contents(tmp_path / "s")[name] == contents(tmp_path / "one")[name]


# Refusals (I5)


def change_data(config, **fields):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: settings(c.data, c.encoders.root, layers=(5,)), r"layers is \[4\] .*\[5\] here"),
        (lambda c: settings(c.data, c.encoders.root, dtype="bfloat16"), "dtype is float32 in"),
        (lambda c: settings(c.data, c.encoders.root, shard_size=3), "shard_size is 2 .* 3 here"),
        (lambda c: change_data(c, limit=3), "limit is None in the store and 3 here"),
        (
            lambda c: change_data(c, short_question="{instruction}?"),
            "short_question is What is",
        ),
    ],
)
def test_other_settings_are_refused(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints, change, named
):
    root = copied(tiny_store, tmp_path / "s")
    with pytest.raises(StoreMismatchError, match=named) as caught:
        extracted(root, change(settings(tiny_coco, tiny_checkpoints)))
    assert "\n" not in str(caught.value)
    assert "Use the" in str(caught.value)
    assert_same(root, tiny_store)


def test_other_weights_are_refused(tmp_path, tiny_store, tiny_coco):
    write_tiny_checkpoints(tmp_path / "other", seed=3)
    with pytest.raises(StoreMismatchError, match=r"group hidden_states .*weights is .*--replace"):
        extracted(copied(tiny_store, tmp_path / "s"), settings(tiny_coco, tmp_path / "other"))


def test_data_that_moved_is_accepted_and_other_data_is_not(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints
):
    root, moved = copied(tiny_store, tmp_path / "s"), tmp_path / "moved"
    shutil.copytree(tiny_coco, moved)
    commit_path(root, "hidden_states", 1).unlink()
    extracted(root, settings(moved, tiny_checkpoints))
    assert Manifest.load(root).config["data"]["root"] == str(moved)
    assert verify_store(root).problems == []
    first, second = contents(root), contents(tiny_store)
    different = {name for name in first if first[name] != second[name]}
    assert different == {"manifest.json"}
    write_coco(tmp_path / "other", num_images=4, width=40, height=30)
    with pytest.raises(StoreMismatchError, match=r"5 images and \d+ queries then, 4 and"):
        extracted(root, settings(tmp_path / "other", tiny_checkpoints))
    with pytest.raises(StoreMismatchError, match="limit is None in the store and 2 here"):
        extracted(root, change_data(settings(tiny_coco, tiny_checkpoints), limit=2))


def test_a_plan_of_other_settings_is_refused(tmp_path, tiny_coco, tiny_checkpoints):
    config = settings(tiny_coco, tiny_checkpoints)
    plan_store(tmp_path / "s", change_data(config, limit=2), Quiet())
    with pytest.raises(StoreMismatchError, match="limit is 2 in the store and None here"):
        extracted(tmp_path / "s", config)
    assert not (tmp_path / "s/manifest.json").exists()


def test_a_plan_made_anew_from_changed_data_is_refused(tmp_path, tiny_checkpoints):
    data = own_data(tmp_path / "data", photos(4))
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    extracted(root, config)
    shutil.rmtree(root / "plan")
    (tmp_path / "data/0.png").write_bytes(encoded(colours(40, 30, seed=50)))
    with pytest.raises(StoreMismatchError, match="not what was planned"):
        extracted(root, config)


def test_planning_first_changes_nothing(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    config = settings(tiny_coco, tiny_checkpoints)
    plan_store(tmp_path / "s", config, Quiet())
    extracted(tmp_path / "s", config)
    assert_same(tmp_path / "s", tiny_store)


@pytest.mark.parametrize("layers", [(), (17,), (4, 4)])
def test_impossible_layers_are_refused(tmp_path, tiny_coco, tiny_checkpoints, layers):
    config = settings(tiny_coco, tiny_checkpoints, layers=layers)
    with pytest.raises(ConfigError, match="expected distinct layers from 1 to 16"):
        extracted(tmp_path / "s", config)


def test_missing_checkpoints_are_named(tmp_path, tiny_coco, tiny_checkpoints):
    with pytest.raises(CheckpointError, match=r"looking for LLaVA: .*tiny-checkpoints"):
        extracted(tmp_path / "s", settings(tiny_coco, tmp_path / "none"))
    shutil.copytree(tiny_checkpoints / "llava", tmp_path / "half/llava")
    with pytest.raises(CheckpointError, match="looking for SAM"):
        extracted(tmp_path / "s", settings(tiny_coco, tmp_path / "half"))


def test_another_process_keeps_this_one_out(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    root = copied(tiny_store, tmp_path / "s")
    commit_path(root, "hidden_states", 0).unlink()
    before = contents(root)
    with writer_lock(root):
        with pytest.raises(StoreError, match="another extraction holds it"):
            extracted(root, settings(tiny_coco, tiny_checkpoints))
        with pytest.raises(StoreError, match="another extraction holds it"):
            repair_store(root, (), Quiet(), runner=run_in_process)
    assert contents(root) == before


# Images that fail, and images that do not


def test_a_broken_image_is_set_aside_and_the_run_goes_on(tmp_path, tiny_checkpoints):
    pictures = photos(5)
    pictures["2.png"] = truncated()
    data = own_data(tmp_path / "data", pictures)
    reporter = Quiet()
    summary = extracted(tmp_path / "s", settings(data, tiny_checkpoints), reporter=reporter)
    assert {(q.group, q.path, q.stage) for q in summary.quarantined} == {
        ("hidden_states", "2.png", "read"),
        ("image_embeddings", "2.png", "read"),
    }
    assert any(
        "quarantined 2.png: hidden_states: cannot be decoded" in m for m in reporter.messages
    )
    store = Store(tmp_path / "s")
    assert (store.num_quarantined, store.images(None)) == (1, [0, 1, 3, 4])
    assert verify_store(tmp_path / "s").problems == []
    with pytest.raises(CorruptShardError, match="found 0"):
        store.read(2, [2], 4)
    # The others are as if it had not been there.
    pictures.pop("2.png")
    extracted(tmp_path / "t", settings(own_data(tmp_path / "d2", pictures), tiny_checkpoints))
    other = Store(tmp_path / "t")
    for ours, theirs in ((0, 0), (1, 1), (3, 2), (4, 3)):
        a, b = store.read(ours, [ours], 4), other.read(theirs, [theirs], 4)
        assert torch.equal(a.image_tokens, b.image_tokens)
        assert torch.equal(a.text_tokens[0], b.text_tokens[0])
        assert torch.equal(a.image_embedding, b.image_embedding)


def test_an_image_changed_or_gone_since_the_plan_is_set_aside(tmp_path, tiny_checkpoints):
    data = own_data(tmp_path / "data", photos(5))
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    plan_store(root, config, Quiet())
    (tmp_path / "data/1.png").write_bytes(encoded(colours(40, 30, seed=77)))
    (tmp_path / "data/3.png").unlink()
    found = extracted(root, config).quarantined
    reasons = {record.path: record.reason for record in found}
    assert "changed since it was planned" in reasons["1.png"]
    assert "No such file" in reasons["3.png"]


def test_an_image_that_recovers_leaves_quarantine(tmp_path, tiny_checkpoints):
    data = own_data(tmp_path / "data", photos(4))
    config, root = settings(data, tiny_checkpoints), tmp_path / "s"
    plan_store(root, config, Quiet())
    kept = (tmp_path / "data/1.png").rename(tmp_path / "kept.png")
    extracted(root, config)
    assert Store(root).num_quarantined == 1
    kept.rename(tmp_path / "data/1.png")
    assert len(extracted(root, config).quarantined) == 2
    sound = stamps(root)["commits/image_embeddings/000001.json"]
    assert extracted(root, config, retry_quarantined=True).quarantined == []
    assert stamps(root)["commits/image_embeddings/000001.json"] == sound
    extracted(tmp_path / "whole", config)
    assert_same(root, tmp_path / "whole")


def test_pictures_of_every_kind_are_extracted(tmp_path, tiny_checkpoints):
    rgb = colours(40, 30)
    pictures = {
        "cmyk.jpg": encoded(Image.fromarray(rgb).convert("CMYK"), "JPEG"),
        "grey.png": encoded(rgb[..., 0]),
        "alpha.png": encoded(Image.fromarray(rgb).convert("RGBA")),
        "palette.gif": encoded(Image.fromarray(rgb).convert("P"), "GIF"),
        "turned.png": rotated(rgb, 6),
        "deep.png": encoded(Image.fromarray(rgb[..., 0].astype(np.uint16) * 257)),
        "pixel.png": encoded(rgb[:1, :1]),
        "long.png": encoded(np.zeros((100, 20000, 3), np.uint8)),
        "tall.png": encoded(np.full((3000, 2, 3), 9, np.uint8)),
    }
    data = own_data(tmp_path / "data", pictures)
    summary = extracted(tmp_path / "s", settings(data, tiny_checkpoints, shard_size=4))
    assert (summary.images, summary.quarantined, summary.unplanned) == (len(pictures), [], 0)
    store = Store(tmp_path / "s")
    found = recompute(store, settings(data, tiny_checkpoints), 100)
    assert [record for record in found if not record.good] == []


def test_a_mask_of_another_size_is_set_aside_by_the_plan(tmp_path, tiny_checkpoints):
    data = own_data(tmp_path / "data", photos(2))
    wrong = {"rle": {"size": [8, 12], "counts": [0, 96]}}
    with (tmp_path / "data/data.jsonl").open("a") as file:
        line = {"image": "1.png", "instruction": "the wrong one", "mask": wrong}
        file.write("\n" + json.dumps(line))
    summary = extracted(tmp_path / "s", settings(data, tiny_checkpoints))
    assert (summary.queries, summary.unplanned) == (2, 1)
    (row,) = Store(tmp_path / "s").plan.quarantine.to_pylist()
    assert "12 x 8 pixels, the image 40 x 30" in row["reason"]


def test_a_whole_run_of_failures_stops_it(tmp_path, tiny_checkpoints):
    pictures = photos(1) | {f"bad{n}.png": truncated(seed=n) for n in range(6)}
    data = own_data(tmp_path / "data", pictures)
    config = settings(data, tiny_checkpoints, shard_size=10, max_consecutive_failures=3)
    with pytest.raises(ExtractionError, match=r"stopped after 3 images failed in a row.*bad2.png"):
        extracted(tmp_path / "s", config)
    assert list((tmp_path / "s").glob("commits/*/*.json")) == []
    assert list((tmp_path / "s").rglob("c/*")) == []
    config = settings(data, tiny_checkpoints, shard_size=10, max_consecutive_failures=7)
    assert len(extracted(tmp_path / "s", config).quarantined) == 12


def test_a_broken_model_is_not_hidden_by_the_other(tmp_path, tiny_coco, tiny_checkpoints):
    """SAM whose weights are not finite, beside a LLaVA that works."""
    broken = tmp_path / "checkpoints"
    shutil.copytree(tiny_checkpoints, broken)
    state = torch.load(broken / "sam.pth", weights_only=True)
    state["image_encoder.pos_embed"].fill_(torch.nan)
    torch.save(state, broken / "sam.pth")
    config = settings(tiny_coco, broken, max_consecutive_failures=2, shard_size=5)
    with pytest.raises(ExtractionError, match="values that are not finite in image_embeddings"):
        extracted(tmp_path / "s", config)


def test_an_image_that_killed_a_worker_is_not_touched_again(
    tmp_path, tiny_coco, tiny_checkpoints, monkeypatch
):
    config, root = settings(tiny_coco, tiny_checkpoints), tmp_path / "s"
    plan = plan_store(root, config, Quiet())
    poison = plan.image(1)
    for group in ("hidden_states", "image_embeddings"):
        Quarantine(
            group=group, image_id=poison.image_id, path="x", stage="crash", reason="died"
        ).save(root)

    def deadly(data):
        assert content_id(data) != poison.image_id
        return read_image(data)

    monkeypatch.setattr("lens_cache.extraction.image_reader.read_image", deadly)
    extracted(root, config)
    assert set(quarantined(root, "hidden_states")) == {poison.image_id}
    extractor = ShardExtractor(root, config, ("image_embeddings",), "cpu")
    extractor.probe([0, 1, 2], ("image_embeddings",))


# Commits


class Gate:
    """Stands before commits: each waits until it is let through, or fails."""

    def __init__(self, monkeypatch):
        self.came, self.errors, self.opened = [], {}, threading.Event()
        real = GroupShardWriter.commit

        def commit(writer):
            shard = writer._commit.shard
            self.came.append(shard)
            assert self.opened.wait(60)
            if shard in self.errors:
                raise self.errors.pop(shard)
            real(writer)

        monkeypatch.setattr(GroupShardWriter, "commit", commit)


@pytest.fixture
def prepared(tmp_path, tiny_coco, tiny_checkpoints, monkeypatch):
    """A store without any shard, and an extractor whose commits wait at a gate."""
    root, config = tmp_path / "s", settings(tiny_coco, tiny_checkpoints)
    with pytest.raises(ExtractionError, match="not committed"):
        extracted(root, config, runner=lambda run, ledger: None)
    absolute = with_overrides(Manifest.load(root))
    gate = Gate(monkeypatch)
    return root, config, ShardExtractor(root, absolute, ("image_embeddings",), "cpu"), gate


def committed_shards(root):
    return [n for n in range(3) if commit_path(root, "image_embeddings", n).exists()]


def test_models_go_on_while_a_shard_is_committed(prepared, tiny_store):
    root, config, extractor, gate = prepared
    first = extractor.extract_ahead(0, ("image_embeddings",))
    assert not first.done()
    assert extractor.images_done == 2
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(extractor.extract_ahead, 1, ("image_embeddings",))
        until = time.monotonic() + 60
        while extractor.images_done < 4:
            assert time.monotonic() < until
            time.sleep(0.01)
        # The models are through; the second commit waits for the first.
        assert (first.done(), second.done(), committed_shards(root)) == (False, False, [])
        assert set(gate.came) == {0}
        gate.opened.set()
        reports = [first.result(60), second.result(60).result(60)]
    assert [report.shard for report in reports] == [0, 1]
    assert all(report.size > 0 and report.seconds["commit"] > 0 for report in reports)
    assert extractor.images_done == 0
    assert committed_shards(root) == [0, 1]
    extracted(root, config)
    assert_same(root, tiny_store)


def test_a_commit_that_fails_is_its_own_shards_failure(prepared, tiny_store):
    root, config, extractor, gate = prepared
    gate.opened.set()
    gate.errors[0] = OSError(errno.EIO, "broken")
    first = extractor.extract_ahead(0, ("image_embeddings",))
    second = extractor.extract_ahead(1, ("image_embeddings",))
    assert second.result(60).shard == 1
    with pytest.raises(OSError, match="broken"):
        first.result(60)
    assert committed_shards(root) == [1]
    assert not list((root / "image_embeddings").rglob("*.tmp*"))
    assert extractor.extract(0, ("image_embeddings",)).shard == 0
    extracted(root, config)
    assert_same(root, tiny_store)


# Disks


def test_a_full_disk_leaves_nothing_half_written(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    """A real limit on the size of files stands for the disk."""
    root = tmp_path / "s"
    script = f"""
import resource, signal, sys
from pathlib import Path
from tests.support.stores import extracted, settings
from pipelines.extraction.runners import run_in_process
def runner(run, ledger):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    run_in_process(run, ledger)
try:
    extracted(Path({str(root)!r}), settings(Path({str(tiny_coco)!r}),
              Path({str(tiny_checkpoints)!r})), runner=runner)
except OSError as error:
    sys.exit(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == errno.EFBIG, done.stderr
    assert list(root.rglob("c/*")) == []
    assert list(root.glob("commits/*/*.json")) == []
    assert not (root / "tmp").exists() or list((root / "tmp").iterdir()) == []
    extracted(root, settings(tiny_coco, tiny_checkpoints))
    assert_same(root, tiny_store)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, tiny_coco, tiny_checkpoints):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file/store"):
        with pytest.raises(StoreError, match="choose a writable folder"):
            extracted(place, settings(tiny_coco, tiny_checkpoints))


def test_what_does_not_fit_is_refused_unless_told(
    tmp_path, tiny_store, tiny_coco, tiny_checkpoints, monkeypatch
):
    config = settings(tiny_coco, tiny_checkpoints)
    monkeypatch.setattr("pipelines.extraction.dry_run._free_bytes", lambda root: 1_000_000)
    assert not dry_run(tmp_path / "s", config, Quiet()).fits
    with pytest.raises(StoreError, match=r"GB are needed and 0.00 GB are free.*--force"):
        extracted(tmp_path / "s", config)
    assert list((tmp_path / "s").glob("commits/*/*.json")) == []
    extracted(tmp_path / "s", config, force=True)
    assert_same(tmp_path / "s", tiny_store)


# Verify and repair (I2)


def spoiled_files(root):
    """One file of every kind, by kind."""
    kinds = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and name.parts[0] not in ("runs", ".lock"):
            kinds.setdefault(
                (name.parts[0], path.suffix, name.parts[-2] if len(name.parts) > 1 else ""), path
            )
    return list(kinds.values())


@pytest.fixture(scope="module")
def store_with_quarantine(tmp_path_factory, tiny_checkpoints):
    """A store of five images, the fourth of which is broken, and its settings."""
    folder = tmp_path_factory.mktemp("quarantine")
    data = own_data(
        folder / "data", photos(3) | {"3.png": truncated()} | {"4.png": photos(5)["4.png"]}
    )
    config = settings(data, tiny_checkpoints)
    extracted(folder / "s", config)
    return folder / "s", config


def test_a_flipped_bit_anywhere_is_noticed_and_mended(tmp_path, store_with_quarantine):
    good, _ = store_with_quarantine
    kinds = spoiled_files(good)
    assert len(kinds) >= 12
    for number, path in enumerate(kinds):
        name = path.relative_to(good)
        root = copied(good, tmp_path / str(number))
        size = path.stat().st_size
        flip(root / name, at=(7 * size) // 11)
        if name.parts == ("manifest.json",):
            with pytest.raises(CorruptShardError, match="does not match its checksum"):
                verify_store(root)
            continue
        found = verify_store(root)
        assert found.problems, name
        assert all("\n" not in problem.what for problem in found.problems)
        repair_store(root, (), Quiet(), runner=run_in_process)
        assert verify_store(root).problems == [], name
        assert_same(root, good)


def test_verify_names_shard_array_and_image_and_repair_touches_nothing_else(tmp_path, tiny_store):
    root, plan = copied(tiny_store, tmp_path / "s"), Store(tiny_store).plan
    name = "hidden_states/layer_4/image_tokens/c/1/0/0"
    third = Manifest.load(root).arrays["hidden_states"]["layer_4/image_tokens"].chunk_bytes
    flip(root / name, at=third + 5)
    (problem,) = verify_store(root).problems
    image = plan.image(3)
    assert (problem.group, problem.shard) == ("hidden_states", 1)
    assert problem.what == (
        f"{name} does not match its checksum; damaged: {image.image_id} ({image.path})"
    )
    before = stamps(root)
    repair_store(root, (), Quiet(), runner=run_in_process)
    after = stamps(root)
    changed = {n for n in before if before[n] != after[n] and "/c/" in n}
    mine = {n for n in before if n.startswith("hidden_states/") and "/c/1/" in n}
    assert changed == mine
    changed = {n for n in before if before[n] != after[n] and n.startswith("commits/")}
    assert changed <= {"commits/hidden_states/000001.json", "commits/shared/000000.json"}
    assert_same(root, tiny_store)


def test_a_flipped_bit_of_text_names_its_image(tmp_path, tiny_store):
    root, store = copied(tiny_store, tmp_path / "s"), Store(tiny_store)
    spec = store.manifest.arrays["hidden_states"]["layer_4/text_tokens"]
    row = spec.chunk_bytes // spec.chunk[0]
    last = store.plan.query_range(3)[-1]
    start = int(store.questions.offsets[last]) - spec.shard[0]
    flip(root / spec.object_path(1), at=start * row)
    (problem,) = verify_store(root).problems
    assert f"damaged: {store.plan.image(3).image_id}" in problem.what
    assert store.plan.image(2).image_id not in problem.what


@pytest.mark.parametrize("damage", ["truncate", "remove", "empty", "swap"])
def test_lost_objects_are_mended(tmp_path, tiny_store, damage):
    root = copied(tiny_store, tmp_path / "s")
    path, other = (root / f"image_embeddings/c/{n}/0/0/0" for n in (0, 1))
    if damage == "truncate":
        os.truncate(path, path.stat().st_size - 5)
    elif damage == "remove":
        path.unlink()
    elif damage == "empty":
        os.truncate(path, 0)
    else:
        shutil.copyfile(other, path)
    (problem,) = verify_store(root).problems
    assert (problem.group, problem.shard) == ("image_embeddings", 0)
    if damage != "swap":
        with pytest.raises(CorruptShardError):
            Store(root).read(0, [0], 4)
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert_same(root, tiny_store)


def test_repairing_a_sound_store_changes_nothing(tmp_path, tiny_store):
    root = copied(tiny_store, tmp_path / "s")
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert_same(root, tiny_store)


def test_another_plan_under_a_store_is_noticed(tmp_path, tiny_store, tiny_coco, tiny_checkpoints):
    root = copied(tiny_store, tmp_path / "s")
    config = change_data(settings(tiny_coco, tiny_checkpoints), limit=4)
    plan_store(tmp_path / "other", config, Quiet())
    shutil.rmtree(root / "plan")
    shutil.copytree(tmp_path / "other/plan", root / "plan")
    whats = [problem.what for problem in verify_store(root).problems]
    assert "the plan is not the one the manifest was written for" in whats


def test_an_unknown_format_is_refused(tmp_path, tiny_store):
    root = copied(tiny_store, tmp_path / "s")
    document = read_json(root / "manifest.json", purpose="")
    for change in ({"format_version": 2}, {"format": "other"}):
        write_json(root, root / "manifest.json", {**document, **change})
        with pytest.raises(StoreError, match="expected lens-cache store version 1, found"):
            Store(root)
    write_json(root, root / "manifest.json", {**document, "surprise": 1})
    with pytest.raises(StoreError, match=r"manifest.json is not a manifest \(.*surprise"):
        Store(root)


def test_what_is_no_store_is_named(tmp_path):
    with pytest.raises(StoreError, match="no such folder"):
        Store(tmp_path / "none")
    with pytest.raises(StoreError, match=r"there is no manifest.json"):
        Store(tmp_path)


def test_a_dry_run_counts_and_writes_nothing(tmp_path, tiny_coco, tiny_checkpoints, tiny_store):
    found = dry_run(tmp_path / "s/deep", settings(tiny_coco, tiny_checkpoints), Quiet())
    assert list(tmp_path.iterdir()) == []
    assert found.shards == {"hidden_states": 3, "image_embeddings": 3}
    assert (found.plan.num_images, found.files) == (5, 5)
    arrays = Manifest.load(tiny_store).arrays
    image = arrays["image_embeddings"]["image_embeddings"].chunk_bytes
    assert found.estimate.feature_bytes["image_embeddings"] == 5 * image
    stored = sum(
        path.stat().st_size
        for path in tiny_store.rglob("*")
        if "/c/" in path.as_posix() and path.is_file()
    )
    assert found.missing_bytes == pytest.approx(stored, rel=0.2)
    assert found.estimate.naive_bytes > sum(found.estimate.feature_bytes.values())
    assert dry_run(tiny_store, settings(tiny_coco, tiny_checkpoints), Quiet()).missing_bytes == 0
    with pytest.raises(StoreMismatchError, match="layers is"):
        dry_run(tiny_store, settings(tiny_coco, tiny_checkpoints, layers=(3,)), Quiet())


@pytest.mark.slow
def test_compiled_models_say_the_same(tmp_path, tiny_coco, tiny_checkpoints):
    config = settings(tiny_coco, tiny_checkpoints, compile=True, images_per_batch=2)
    extracted(tmp_path / "s", config)
    found = recompute(Store(tmp_path / "s"), config, 100)
    assert found
    assert [record for record in found if not record.good] == []
