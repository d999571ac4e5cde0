"""Stores of tars: conversion both ways, extraction straight into them, damage and repair."""

import dataclasses
import os
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
import webdataset

from lens_cache.errors import ConfigError, CorruptShardError, StoreError, StoreMismatchError
from lens_cache.store.commits import Commit, commit_path
from lens_cache.store.convert import convert
from lens_cache.store.manifest import Manifest
from lens_cache.store.quarantine import Quarantine
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from pipelines.extraction.extract import plan_store
from pipelines.extraction.runners import run_in_process
from pipelines.extraction.verify import repair_store
from tests.support.data import own_data, photos, truncated
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


def with_format(config, name="webdataset"):
    return dataclasses.replace(config, store=dataclasses.replace(config.store, format=name))


@pytest.fixture(scope="module")
def tar_store(tmp_path_factory, tiny_store):
    """The tiny store as tars; do not write into it."""
    root = tmp_path_factory.mktemp("tars") / "store"
    convert(tiny_store, root, wanted="webdataset")
    return root


@pytest.fixture(scope="module")
def partial(tmp_path_factory, tiny_checkpoints):
    """A store of two layers in bfloat16: image 1 failed in one group, image 4 in both."""
    folder = tmp_path_factory.mktemp("partial")
    data = own_data(folder / "data", photos(4) | {"4.png": truncated()})
    config = settings(data, tiny_checkpoints, layers=(2, 5), dtype="bfloat16", shard_size=3)
    image = plan_store(folder / "store", config, Quiet()).image(1)
    Quarantine(
        group="image_embeddings",
        image_id=image.image_id,
        path=str(image.path),
        stage="crash",
        reason="died",
    ).save(folder / "store")
    extracted(folder / "store", config)
    return folder / "store"


# Conversion


def test_there_and_back_is_the_same_bytes(tmp_path, tiny_store, tar_store):
    assert verify_store(tar_store).problems == []
    done = convert(tar_store, tmp_path / "back", wanted="zarr")
    assert (done.converted, done.shards, done.images) == (3, 3, 5)
    assert_same(tmp_path / "back", tiny_store)
    assert verify_store(tmp_path / "back").problems == []


def test_images_that_failed_survive_the_way(tmp_path, partial):
    convert(partial, tmp_path / "tars", wanted="webdataset")
    convert(tmp_path / "tars", tmp_path / "back", wanted="zarr")
    assert_same(tmp_path / "back", partial)
    for place in ("tars", "back"):
        assert verify_store(tmp_path / place).problems == []
        assert Store(tmp_path / place).images(None) == [0, 2, 3]


def test_both_formats_hold_the_same_values_and_checksums(tiny_store, tar_store):
    one, other = Store(tiny_store), Store(tar_store)
    for image in range(5):
        queries = list(one.plan.query_range(image))[::-1]
        a, b = one.read(image, queries, 4), other.read(image, queries, 4)
        assert torch.equal(a.prefix, b.prefix)
        assert torch.equal(a.image_tokens, b.image_tokens)
        assert torch.equal(a.image_embedding, b.image_embedding)
        assert len(a.text_tokens) == len(b.text_tokens) == len(queries)
        assert all(map(torch.equal, a.text_tokens, b.text_tokens))
    for group in ("hidden_states", "image_embeddings"):
        for shard in range(3):
            here, there = (Commit.load(root, group, shard) for root in (tiny_store, tar_store))
            assert here.images == there.images


def test_plain_webdataset_streams_the_samples(tiny_store, tar_store, tiny_coco):
    """Nothing of this package takes part in the reading."""
    urls = [str(path) for path in sorted((tar_store / "samples").iterdir())]
    stream = webdataset.WebDataset(urls, shardshuffle=False).decode()
    samples = list(stream)
    stream.close()
    store = Store(tiny_store)
    assert [sample["__key__"] for sample in samples] == store.plan.images["image_id"].to_pylist()
    for image, sample in enumerate(samples):
        planned, info = store.plan.image(image), sample["json"]
        assert (info["image_id"], info["index"]) == (planned.image_id, image)
        assert (info["width"], info["height"]) == (planned.width, planned.height) == (40, 30)
        expected = store.read(image, store.plan.query_range(image), 4)
        np.testing.assert_array_equal(
            sample["layer_4.image_tokens.npy"], expected.image_tokens.numpy()
        )
        np.testing.assert_array_equal(
            sample["image_embeddings.npy"], expected.image_embedding.numpy()
        )
        assert len(info["queries"]) == len(expected.text_tokens)
        for query, rows, described in zip(
            store.plan.queries_of(image), expected.text_tokens, info["queries"], strict=True
        ):
            start, stop = described["text_rows"]
            np.testing.assert_array_equal(
                sample["layer_4.text_tokens.npy"][start:stop], rows.numpy()
            )
            assert len(described["token_ids"]) == stop - start
            assert described["instruction"] == query.instruction
            assert described["query_id"] == query.query_id
            assert (described["kind"], described["split"]) == (query.kind, query.split)
            assert described["target"] == query.target()
            assert described["ignore"] == query.ignore()
    prefix = np.load(tar_store / "hidden_states/layer_4/prefix.npy")
    np.testing.assert_array_equal(prefix, store.read(0, [], 4).prefix.numpy())


def test_plain_webdataset_meets_whole_samples_alone(tmp_path, partial):
    convert(partial, tmp_path / "tars", wanted="webdataset")
    urls = [str(path) for path in sorted((tmp_path / "tars/samples").iterdir())]
    stream = webdataset.WebDataset(urls, shardshuffle=False).decode()
    samples = list(stream)
    stream.close()
    store = Store(partial)
    assert [sample["json"]["index"] for sample in samples] == [0, 2, 3]
    bits = torch.from_numpy(samples[1]["layer_5.image_tokens.npy"].view(np.int16))
    assert torch.equal(bits.view(torch.bfloat16), store.read(2, [], 5).image_tokens)
    entry = samples[1]["json"]["arrays"]["layer_5.image_tokens.npy"]
    assert (entry["dtype"], entry["array"]) == ("bfloat16", "layer_5/image_tokens")
    with tarfile.open(tmp_path / "tars/samples/000000.tar") as tar:
        hidden = [name for name in tar.getnames() if name.startswith("__incomplete__/")]
    failed = store.plan.image(1).image_id
    assert {name.split("/")[1].split(".")[0] for name in hidden} == {failed}
    assert not any("image_embeddings" in name for name in hidden)


def test_equal_content_is_equal_bytes_and_nothing_is_a_pickle(tmp_path, tiny_store, tar_store):
    convert(tiny_store, tmp_path / "again", wanted="webdataset")
    assert_same(tmp_path / "again", tar_store)
    suffixes = {path.suffix for path in tar_store.rglob("*") if path.is_file()}
    assert suffixes <= {"", ".json", ".parquet", ".safetensors", ".jsonl", ".yaml", ".tar", ".npy"}
    with tarfile.open(tar_store / "samples/000000.tar", "r:") as tar:
        for member in tar:
            assert member.isreg()
            assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
            assert member.name.endswith((".json", ".npy"))


# A conversion that is interrupted or refused


# Forks a process that does the work and dies when it is about to move a file of a kind into place,
# again and again, each time a few files later; prints every exit status.
KILLED_AGAIN_AND_AGAIN = """
import itertools, os, sys
from pathlib import Path
from tests.support.stores import Quiet, extracted, settings
from tests.integration.test_convert import with_format
from lens_cache.store.convert import convert
real = Path.rename
def work(): {work}
for left in {lefts}:
    if (child := os.fork()) == 0:
        def rename(self, target):
            global left
            left -= any(part in str(target) for part in {parts})
            if left < 0:
                os._exit(9)
            return real(self, target)
        Path.rename = rename
        work()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
    if status == 0:
        break
"""


def statuses(work, lefts, parts=("",)):
    """Run work that is killed again and again; returns how each process ended."""
    script = KILLED_AGAIN_AND_AGAIN.format(work=work, lefts=lefts, parts=parts)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_a_killed_conversion_ends_with_the_same_bytes(tmp_path, tiny_store, tar_store):
    """Killed at the first file, at the second of what is left, and so on."""
    dest = tmp_path / "dest"
    work = f"convert(Path({str(tiny_store)!r}), Path({str(dest)!r}), wanted='webdataset')"
    codes = statuses(work, "range(40)")
    assert codes[-1] == 0
    assert codes[:-1] == [9] * (len(codes) - 1)
    assert len(codes) > 4
    assert not (dest / "tmp").exists()
    assert_same(dest, tar_store)


def test_a_conversion_under_way_is_no_store(tmp_path, tiny_store, tar_store):
    class Stop(Exception):
        pass

    class Impatient(Quiet):
        def progress(self, what, done, total):
            if done == 2:
                raise Stop

    with pytest.raises(Stop):
        convert(tiny_store, tmp_path / "dest", wanted="webdataset", progress=Impatient().progress)
    with pytest.raises(StoreError, match="has not finished"):
        Store(tmp_path / "dest")
    convert(tiny_store, tmp_path / "dest", wanted="webdataset")
    assert_same(tmp_path / "dest", tar_store)


def test_what_is_there_is_not_written_again(tmp_path, tiny_store, tar_store):
    root = copied(tar_store, tmp_path / "dest")
    before = stamps(root)
    assert convert(tiny_store, root, wanted="webdataset").converted == 0
    after = stamps(root)
    assert [name for name in before if before[name] != after.get(name)] in ([], [".lock"])
    commit_path(root, "image_embeddings", 1).unlink()
    reporter = Quiet()
    assert convert(tiny_store, root, wanted="webdataset", progress=reporter.progress).converted == 1
    assert reporter.steps == [("convert", 0, 1), ("convert", 1, 1)]
    assert_same(root, tar_store)


def test_folders_that_make_no_sense_are_refused(tmp_path, tiny_store, tar_store, partial):
    before = contents(tiny_store)
    with pytest.raises(ConfigError, match="in the format zarr and in this precision already"):
        convert(tiny_store, tmp_path / "x", wanted="zarr")
    with pytest.raises(ConfigError, match="neither inside the other"):
        convert(tiny_store, tiny_store, wanted="webdataset")
    (tmp_path / "link").symlink_to(tiny_store)
    with pytest.raises(ConfigError, match="neither inside the other"):
        convert(tiny_store, tmp_path / "link", wanted="webdataset")
    with pytest.raises(ConfigError, match="neither inside the other"):
        convert(tiny_store, tiny_store / "tars", wanted="webdataset")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("dear")
    with pytest.raises(StoreError, match=r"found letter\.txt; give a new DEST"):
        convert(tiny_store, tmp_path / "full", wanted="webdataset")
    # As a run has it that was trained from these tars: their manifest beside files of its own.
    (tmp_path / "full/letter.txt").rename(tmp_path / "full/run.json")
    shutil.copyfile(tar_store / "manifest.json", tmp_path / "full/manifest.json")
    with pytest.raises(StoreError, match=r"found run\.json; give a new DEST"):
        convert(tiny_store, tmp_path / "full", wanted="webdataset")
    assert len(list((tmp_path / "full").iterdir())) == 2
    other = copied(tar_store, tmp_path / "other")
    with pytest.raises(StoreMismatchError, match=r"plan is .*Give a new DEST"):
        convert(partial, other, wanted="webdataset")
    with pytest.raises(StoreMismatchError, match="format is webdataset in the store and zarr here"):
        convert(copied(tar_store, tmp_path / "o2"), other, wanted="zarr")
    assert_same(other, tar_store)
    assert contents(tiny_store) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "link", "o2", "other"]


def test_an_unfinished_or_damaged_store_is_not_converted(tmp_path, tiny_store):
    root = copied(tiny_store, tmp_path / "s")
    dataclasses.replace(Manifest.load(root), complete=False).save(root)
    with pytest.raises(StoreError, match="its extraction has not finished"):
        convert(root, tmp_path / "dest", wanted="webdataset")
    assert not (tmp_path / "dest").exists()
    root = copied(tiny_store, tmp_path / "t")
    flip(root / "hidden_states/layer_4/image_tokens/c/1/0/0", at=5)
    image = Store(root).plan.image(2).image_id
    with pytest.raises(CorruptShardError, match=rf"hidden_states of image {image} in shard 1"):
        convert(root, tmp_path / "dest", wanted="webdataset")
    assert not commit_path(tmp_path / "dest", "hidden_states", 1).exists()
    with pytest.raises(StoreError, match="has not finished"):
        Store(tmp_path / "dest")


# Extraction straight into tars


def test_extracting_tars_is_extracting_and_converting(
    tmp_path, tar_store, tiny_coco, tiny_checkpoints
):
    config = with_format(settings(tiny_coco, tiny_checkpoints))
    extracted(tmp_path / "s", config)
    assert_same(tmp_path / "s", tar_store)
    assert extracted(tmp_path / "s", config).reports == []
    with pytest.raises(StoreMismatchError, match="format is webdataset in the store and zarr here"):
        extracted(tmp_path / "s", settings(tiny_coco, tiny_checkpoints))


@pytest.mark.parametrize("lost", [None, "hidden_states", "image_embeddings"])
def test_a_killed_extraction_into_tars_ends_with_the_same_bytes(
    tmp_path, tar_store, tiny_coco, tiny_checkpoints, lost
):
    """Killed whenever a tar, a prefix or a commit is about to be moved into place.

    From nothing, or while one group is extracted anew and the other one carried over.
    """
    root = tmp_path / "s"
    if lost is not None:
        copied(tar_store, root)
        for shard in range(3):
            commit_path(root, lost, shard).unlink()
    work = (
        f"extracted(Path({str(root)!r}), with_format(settings(Path({str(tiny_coco)!r}), "
        f"Path({str(tiny_checkpoints)!r}))))"
    )
    parts = ("/samples/", "/commits/", "prefix")
    assert statuses(work, "(0, 1, 2, 3, 2, 99)", parts) == [9, 9, 9, 9, 9, 0]
    assert_same(root, tar_store)
    assert verify_store(root).problems == []


@pytest.mark.parametrize("group", ["hidden_states", "image_embeddings"])
def test_one_group_is_replaced_and_the_other_carried_over(
    tmp_path, tar_store, tiny_coco, tiny_checkpoints, group
):
    root = copied(tar_store, tmp_path / "s")
    config = with_format(settings(tiny_coco, tiny_checkpoints))
    llava, sam = config.encoders.llava, config.encoders.sam
    change = (
        {"llava": dataclasses.replace(llava, layers=(2, 6))}
        if group == "hidden_states"
        else {"sam": dataclasses.replace(sam, dtype="bfloat16")}
    )
    config = dataclasses.replace(config, encoders=dataclasses.replace(config.encoders, **change))
    summary = extracted(root, config, replace=(group,))
    stage = {"hidden_states": "sam", "image_embeddings": "llava"}[group]
    assert all(stage not in report.seconds for report in summary.reports)
    extracted(tmp_path / "new", config)
    assert_same(root, tmp_path / "new")
    assert verify_store(root).problems == []


def test_images_set_aside_and_taken_back(tmp_path, tiny_checkpoints):
    data = own_data(tmp_path / "data", photos(4))
    config, root = with_format(settings(data, tiny_checkpoints)), tmp_path / "s"
    plan_store(root, config, Quiet())
    kept = (tmp_path / "data/1.png").rename(tmp_path / "kept.png")
    extracted(root, config)
    assert Store(root).images(None) == [0, 2, 3]
    with pytest.raises(CorruptShardError, match=r"000000.tar: it has no"):
        Store(root).read(1, [1], 4)
    kept.rename(tmp_path / "data/1.png")
    extracted(root, config, retry_quarantined=True)
    extracted(tmp_path / "whole", config)
    assert_same(root, tmp_path / "whole")


# Damage (I2) and hostile tars (I6)


def member_at(tar_path, name):
    """Return the offset of a member's content."""
    with tarfile.open(tar_path) as tar:
        return tar.getmember(name).offset_data


@pytest.mark.parametrize(
    ("suffix", "groups", "text"),
    [
        ("layer_4.image_tokens.npy", {"hidden_states"}, "damaged: {image} ("),
        ("layer_4.text_tokens.npy", {"hidden_states"}, "damaged: {image} ("),
        ("image_embeddings.npy", {"image_embeddings"}, "damaged: {image} ("),
        ("json", {"hidden_states", "image_embeddings"}, "no image is affected"),
    ],
)
def test_a_flipped_byte_names_shard_and_image_and_is_mended(
    tmp_path, tar_store, suffix, groups, text
):
    root = copied(tar_store, tmp_path / "s")
    path, image = root / "samples/000001.tar", Store(root).plan.image(3).image_id
    flip(path, at=member_at(path, f"{image}.{suffix}") + 200)
    problems = verify_store(root).problems
    assert {problem.group for problem in problems} == groups
    for problem in problems:
        assert problem.shard == 1
        start = "samples/000001.tar does not match its checksum; "
        assert problem.what.startswith(start + text.format(image=image))
        assert problem.what.count("(") <= 1
    before = stamps(root)
    repair_store(root, (), Quiet(), runner=run_in_process)
    after = stamps(root)
    changed = {name for name in before if before[name] != after[name] and "samples" in name}
    assert changed == {"samples/000001.tar"}
    assert_same(root, tar_store)


@pytest.mark.parametrize("damage", ["truncate", "cut at a member", "remove", "empty", "swap"])
def test_lost_tars_are_noticed_and_mended(tmp_path, tar_store, damage):
    root = copied(tar_store, tmp_path / "s")
    path = root / "samples/000000.tar"
    image = Store(root).plan.image(1).image_id
    if damage == "truncate":
        os.truncate(path, path.stat().st_size * 2 // 3)
    elif damage == "cut at a member":
        os.truncate(path, member_at(path, f"{image}.json") - 512)
    elif damage == "remove":
        path.unlink()
    elif damage == "empty":
        os.truncate(path, 0)
    else:
        shutil.copyfile(root / "samples/000001.tar", path)
    with pytest.raises(CorruptShardError, match=r"000000\.tar"):
        Store(root).read(0, [0], 4)
    problems = verify_store(root).problems
    assert {(p.group, p.shard) for p in problems} == {
        ("hidden_states", 0),
        ("image_embeddings", 0),
    }
    assert all("no image of it can be read" in problem.what for problem in problems)
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert_same(root, tar_store)


def test_a_flipped_prefix_or_member_header_is_noticed_and_mended(tmp_path, tar_store):
    for number, (name, at) in enumerate(
        [("hidden_states/layer_4/prefix.npy", 400), ("samples/000000.tar", 3)]
    ):
        root = copied(tar_store, tmp_path / str(number))
        flip(root / name, at=at)
        assert verify_store(root).problems
        repair_store(root, (), Quiet(), runner=run_in_process)
        assert_same(root, tar_store)


def test_damage_is_not_carried_over_into_a_new_tar(
    tmp_path, tar_store, tiny_coco, tiny_checkpoints
):
    root = copied(tar_store, tmp_path / "s")
    path, image = root / "samples/000001.tar", Store(root).plan.image(3).image_id
    flip(path, at=member_at(path, f"{image}.image_embeddings.npy") + 200)
    commit_path(root, "hidden_states", 1).unlink()
    config = with_format(settings(tiny_coco, tiny_checkpoints))
    with pytest.raises(CorruptShardError, match=f"carrying image_embeddings of image {image}"):
        extracted(root, config)
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert_same(root, tar_store)
