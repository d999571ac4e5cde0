"""Stores in the cloud: everything that a folder can do, over a real S3-speaking server."""

import csv
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

from lens_cache.config.train import (
    BatchConfig,
    LossConfig,
    OptimizerConfig,
    TrainConfig,
    TrainerConfig,
)
from lens_cache.errors import CorruptShardError, StoreError
from lens_cache.store.convert import convert
from lens_cache.store.io import lease as leases
from lens_cache.store.io.lock import writer_lock
from lens_cache.store.io.remote import store_path
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from pipelines import cli
from pipelines.evaluation.evaluate import evaluate
from pipelines.extraction.runners import on_ray, run_in_process
from pipelines.extraction.verify import repair_store
from pipelines.training.train import train
from tests.support import REPOSITORY
from tests.support.s3 import (
    BUCKET,
    SECRET,
    environment,
    everything,
    filesystem,
    led_to,
    objects,
    proxy,
    uploads,
)
from tests.support.stores import Quiet, contents, extracted, settings

names = itertools.count()


@pytest.fixture
def url(s3):
    """A place in the bucket where nothing lies yet."""
    return f"s3://{BUCKET}/stores/{next(names)}"


@pytest.fixture(scope="module")
def remote_store(s3, tiny_coco, tiny_checkpoints):
    """The URL of a complete store; do not write into it."""
    url = f"s3://{BUCKET}/whole/store"
    extracted(store_path(url), settings(tiny_coco, tiny_checkpoints))
    return url


def assert_same(url, local):
    """A remote store holds the objects of a local one, byte for byte, and nothing else."""
    ours, theirs = objects(url), contents(local)
    theirs.pop(".lock", None)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []


def copied(url, to):
    """Return a copy of a remote store, to be spoilt."""
    filesystem().copy(url + "/", to + "/", recursive=True)
    return to


def script(url, coco, checkpoints, *, runner="run_in_process", start=""):
    """Return a program that extracts, with leases that run out soon."""
    return f"""
from pathlib import Path
from lens_cache.store.io import lease
from lens_cache.store.io.remote import store_path
from lens_cache.store import folder
from pipelines.extraction import runners
from tests.support.stores import extracted, settings
lease.LEASE_SECONDS, lease.RENEW_SECONDS = 4.0, 1.0
{start}
config = settings(Path({str(coco)!r}), Path({str(checkpoints)!r}), count=2)
extracted(store_path({url!r}), config, runner=runners.{runner})
"""


def launch(program, **variables):
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def commits(url):
    """Records of shards; while the first object appears, ``find`` may return the folder itself."""
    found = filesystem().find(url + "/commits")
    return [name for name in found if name.endswith(".json") and "/shared/" not in name]


def kill_when(process, condition):
    """Kill a process as soon as something holds."""
    until = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
    process.kill()
    process.wait()
    process.stderr.close()


# Writing


def test_a_remote_store_is_the_same_bytes(remote_store, tiny_store):
    assert_same(remote_store, tiny_store)
    assert uploads() == []
    assert filesystem().ls(remote_store + "/runs")


@pytest.mark.slow
def test_ray_writes_the_same_bytes(url, tiny_coco, tiny_checkpoints, tiny_store):
    config = settings(tiny_coco, tiny_checkpoints, count=2)
    extracted(store_path(url), config, runner=on_ray(None))
    assert_same(url, tiny_store)


@pytest.mark.parametrize(
    "moment", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_killed_extraction_resumes_to_the_same_bytes(
    url, tiny_coco, tiny_checkpoints, tiny_store, moment
):
    """Killed with the plan begun, in the middle of a shard, and with shards committed."""
    program = script(url, tiny_coco, tiny_checkpoints)
    began = (lambda: uploads()) if moment == 0 else lambda: len(commits(url)) >= moment
    kill_when(launch(program), began)
    with pytest.raises(StoreError, match="has not finished"):
        Store(store_path(url))
    again = launch(program)
    _, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert_same(url, tiny_store)
    assert uploads() == []


@pytest.mark.slow
def test_a_killed_ray_job_resumes_to_the_same_bytes(url, tiny_coco, tiny_checkpoints, tiny_store):
    program = script(url, tiny_coco, tiny_checkpoints, runner="on_ray(None)")
    kill_when(launch(program), lambda: len(commits(url)) >= 1)
    again = launch(program)
    _, error = again.communicate(timeout=300)
    assert again.returncode == 0, error
    assert_same(url, tiny_store)


def test_a_finished_store_is_left_alone(remote_store, tiny_coco, tiny_checkpoints):
    before = {n: e["LastModified"] for n, e in filesystem().find(remote_store, detail=True).items()}
    summary = extracted(store_path(remote_store), settings(tiny_coco, tiny_checkpoints))
    assert summary.reports == []
    after = {n: e["LastModified"] for n, e in filesystem().find(remote_store, detail=True).items()}
    assert before.keys() == after.keys()
    shards = [name for name in before if "/c/" in name or "/commits/" in name]
    assert [name for name in shards if before[name] != after[name]] == []


def test_one_group_is_replaced(
    url, remote_store, tiny_coco, tiny_checkpoints, tiny_store, tmp_path
):
    copied(remote_store, url)
    config = settings(tiny_coco, tiny_checkpoints)
    sam = dataclasses.replace(config.encoders.sam, dtype="bfloat16")
    config = dataclasses.replace(config, encoders=dataclasses.replace(config.encoders, sam=sam))
    extracted(store_path(url), config, replace=("image_embeddings",))
    extracted(tmp_path / "new", config)
    assert_same(url, tmp_path / "new")


# Reading


def recipe(workers):
    return TrainConfig(
        loss=LossConfig(attention_size=32, mask_size=32),
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=1, decay="constant"),
        batch=BatchConfig(
            split="train2017",
            validation_split="train2017",
            contamination="allow",
            images=2,
            queries_per_image=2,
            accumulate=1,
            loader_workers=workers,
        ),
        trainer=TrainerConfig(
            max_steps=4,
            validate_every=2,
            precision="32-true",
            accelerator="cpu",
            threads=1,
            log_every=1,
        ),
    )


def measured(run):
    with (run.folder / "logs/000/metrics.csv").open() as file:
        return [
            {k: v for k, v in row.items() if k.startswith(("train/", "val/")) and v}
            for row in csv.DictReader(file)
        ]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_from_s3_is_training_from_a_disk(tmp_path, remote_store, tiny_store, workers):
    ours = train(tmp_path / "s3", store_path(remote_store), recipe(workers), resume=False)
    theirs = train(tmp_path / "disk", tiny_store, recipe(0), resume=False)
    assert measured(ours) == measured(theirs)
    assert sum("train/total" in row for row in measured(ours)) >= 4
    found = [
        evaluate(run, Store(root), "train2017", num_panels=0, device="cpu").overall
        for run, root in ((ours, store_path(remote_store)), (theirs, tiny_store))
    ]
    assert found[0] == found[1]


def test_a_lost_or_flipped_object_is_noticed_and_mended(url, remote_store, tiny_store):
    copied(remote_store, url)
    root, fs = store_path(url), filesystem()
    data = bytearray(fs.cat_file(url + "/image_embeddings/c/1/0/0/0"))
    data[100] ^= 1
    fs.pipe_file(url + "/image_embeddings/c/1/0/0/0", bytes(data))
    fs.rm(url + "/hidden_states/layer_4/image_tokens/c/0/0/0")
    found = verify_store(root).problems
    assert {(problem.group, problem.shard) for problem in found} == {
        ("image_embeddings", 1),
        ("hidden_states", 0),
    }
    image = Store(root).plan.image(2)
    assert any(image.image_id in problem.what for problem in found)
    with pytest.raises(CorruptShardError, match="no such object; run"):
        Store(root).read(0, [0], 4)
    repair_store(root, (), Quiet(), runner=run_in_process)
    assert verify_store(root).problems == []
    assert_same(url, tiny_store)


# Faults


@pytest.mark.slow
def test_a_bad_day_changes_no_byte(s3, url, tiny_coco, tiny_checkpoints, tiny_store):
    """A quarter of all requests fails, in every way, some after they were done."""
    with proxy(s3, share=0.25) as bad, led_to(bad.url):
        extracted(store_path(url), settings(tiny_coco, tiny_checkpoints))
        assert verify_store(store_path(url)).problems == []
        ours = Store(store_path(url)).read(1, [1], 4)
    assert all(bad.spoilt[kind] for kind in bad.kinds), bad.spoilt
    assert_same(url, tiny_store)
    theirs = Store(tiny_store).read(1, [1], 4)
    assert torch.equal(ours.image_tokens, theirs.image_tokens)
    assert torch.equal(ours.image_embedding, theirs.image_embedding)


def run_cli(*arguments, **variables):
    start = "from pipelines.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", start, *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def last_line(done):
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("lens-cache: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_storage_that_never_answers_is_one_line(s3, remote_store):
    with proxy(s3, share=1.0, kinds=("503",)) as dead:
        done = run_cli("inspect", remote_store, **environment(dead.url), AWS_MAX_ATTEMPTS="2")
    assert f"opening the store {remote_store}: " in last_line(done)
    assert dead.spoilt["503"] >= 2
    with led_to("http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1"):
        with pytest.raises(StoreError, match=r"opening the store s3://\S+: .*Could not connect"):
            Store(store_path(remote_store))
        with pytest.raises(StoreError, match=r"opening the store s3://\S+: "):
            verify_store(store_path(remote_store))


def test_storage_that_dies_in_the_middle_leaves_nothing_half_written(
    s3, url, tiny_coco, tiny_checkpoints, tiny_store, monkeypatch
):
    config = settings(tiny_coco, tiny_checkpoints)
    with (
        proxy(s3, share=0.0, kinds=("503",)) as dying,
        led_to(dying.url, AWS_MAX_ATTEMPTS="1"),
    ):

        class Reporter(Quiet):
            def progress(self, what, done, total):
                dying.share = 1.0 if what == "extract" and done else 0.0

        with pytest.raises(StoreError, match=f"^writing to the store {url}: ") as caught:
            extracted(store_path(url), config, reporter=Reporter())
    assert "\n" not in str(caught.value)
    theirs = contents(tiny_store)
    ours = objects(url)
    assert len([name for name in ours if name.startswith("commits/hidden_states")]) == 1
    for name, data in ours.items():
        if name != "manifest.json" and not name.startswith(".lease"):
            assert theirs[name] == data
    monkeypatch.setattr(leases, "LEASE_SECONDS", 2.0)
    extracted(store_path(url), config)
    assert_same(url, tiny_store)


# Two at a time


def test_a_second_extraction_is_refused_and_a_dead_ones_lease_taken_over(
    url, tiny_coco, tiny_checkpoints, tiny_store, monkeypatch
):
    hold = "import time; from lens_cache.store.io.lock import writer_lock; import contextlib"
    program = (
        script(url, tiny_coco, tiny_checkpoints).split("config = ")[0]
        + f"""
{hold}
with writer_lock(store_path({url!r})):
    time.sleep(600)
"""
    )
    holder = launch(program)
    kept = f"{url}/.lease/00000001.json"
    try:
        while not filesystem().exists(kept):
            assert holder.poll() is None, holder.stderr.read()
            time.sleep(0.05)
        config = settings(tiny_coco, tiny_checkpoints)
        said = rf"another extraction holds it, process {holder.pid} on \S+ since \d{{4}}-\d\d"
        with pytest.raises(StoreError, match=said):
            extracted(store_path(url), config)
        assert set(objects(url)) == {".lease/00000001.json"}
    finally:
        holder.kill()
        holder.wait()
        holder.stderr.close()
    monkeypatch.setattr(leases, "LEASE_SECONDS", 4.0)
    extracted(store_path(url), config)
    assert_same(url, tiny_store)


def watch(require):
    while True:
        require()
        time.sleep(0.05)


def test_a_holder_that_was_taken_for_dead_stops(url, s3, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.0)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.5)
    root = store_path(url)
    with writer_lock(root) as first:
        first()
        with writer_lock(root) as second:
            with pytest.raises(StoreError, match=r"process \d+ on \S+ since \S+ took over"):
                watch(first)
            second()
    assert not filesystem().exists(url + "/.lease")


@pytest.mark.slow
def test_two_writers_at_once_write_the_same_bytes(url, tiny_coco, tiny_checkpoints, tiny_store):
    """What happens at worst: neither knows of the other."""
    alone = "import contextlib; folder.writer_lock = lambda root: contextlib.nullcontext(print)"
    alone += "; folder.sweep_temporary = print"
    program = script(
        url, tiny_coco, tiny_checkpoints, start=alone.replace("(print)", "(lambda: 0)")
    )
    both = [launch(program), launch(program)]
    for process in both:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    assert_same(url, tiny_store)


# The command line


def test_the_commands_take_a_url(url, remote_store, tiny_coco, tiny_checkpoints):
    def run(*arguments):
        done = CliRunner().invoke(cli.app, [str(word) for word in arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    document = json.loads(run("inspect", remote_store, "--json"))
    assert (document["store"], document["complete"]) == (remote_store, True)
    sizes = filesystem().du(remote_store + "/image_embeddings")
    assert document["groups"]["image_embeddings"]["bytes"] == sizes
    assert json.loads(run("verify", remote_store, "--json"))["problems"] == []
    words = {
        "data.root": tiny_coco,
        "data.split": "train2017",
        "encoders.root": tiny_checkpoints,
        "encoders.llava.checkpoint": "llava",
        "encoders.llava.layers": "[4]",
        "encoders.sam.checkpoint": "sam.pth",
    }
    sets = [part for key, value in words.items() for part in ("--set", f"{key}={value}")]
    document = json.loads(run("extract", url, "--dry-run", "--json", *sets))
    assert (document["images"], document["free_bytes"], document["fits"]) == (5, None, None)
    assert "is not known" in run("extract", url, "--dry-run", *sets)
    assert not filesystem().exists(url)
    done = CliRunner().invoke(cli.app, ["train", url, "--store", remote_store])
    assert (done.exit_code, "expected a local folder" in done.output) == (2, True)


def test_credentials_are_nowhere(url, remote_store, tiny_coco, tiny_checkpoints):
    found = everything(remote_store)
    assert any(name.startswith("runs/") for name in found)
    assert [name for name, data in found.items() if SECRET.encode() in data] == []
    with pytest.raises(StoreError, match="found one with credentials") as caught:
        store_path(f"s3://someone:{SECRET}@{BUCKET}/store")
    assert SECRET not in str(caught.value)


def test_a_store_of_tars_goes_up_and_is_streamed_from_there(tmp_path, url, tiny_store):
    local, tars = tmp_path / "tars", store_path(url)
    for dest in (local, tars):
        convert(tiny_store, dest, wanted="webdataset")
    assert_same(url, local)
    assert verify_store(tars).problems == []
    config = recipe(1)
    batch = dataclasses.replace(config.batch, order="stream", validation_split=None)
    config = dataclasses.replace(config, batch=batch)
    ours = train(tmp_path / "s3", tars, config, resume=False)
    theirs = train(tmp_path / "disk", local, config, resume=False)
    assert measured(ours) == measured(theirs)
    assert sum("train/total" in row for row in measured(ours)) >= 4
    with pytest.raises(StoreError, match=r"in order only; train with --set batch.order=stream"):
        Store(tars).read(0, (), Store(tars).layers[0])
