import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import ray

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import to_tree
from lens_cache.errors import StoreMismatchError
from lens_cache.store.commits import Commit, commit_path
from lens_cache.store.layout import GROUPS
from lens_cache.store.quarantine import quarantined
from lens_cache.store.store import Store
from lens_cache.store.verify import verify_store
from pipelines.extraction.ray_worker import OPTIONS, Worker
from pipelines.extraction.runners import on_ray
from pipelines.extraction.verify import repair_store
from tests.support import REPOSITORY
from tests.support.pictures import write_coco
from tests.support.stores import Quiet, assert_same, copied, extracted, flip, settings

IMAGES, SHARD = 24, 3


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "coco"
    return write_coco(folder, num_images=IMAGES, width=40, height=30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, coco, tiny_checkpoints):
    """A store that was extracted in one process, without interruption."""
    root = tmp_path_factory.mktemp("whole") / "store"
    extracted(root, settings(coco, tiny_checkpoints, shard_size=SHARD))
    return root


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of this machine, for all tests of this module."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield cluster.address
    cluster.shutdown()


def command(root, coco, checkpoints, address=None, *more):
    """Return the command line that extracts with two workers."""
    words = {
        "data.root": coco,
        "data.split": "train2017",
        "encoders.root": checkpoints,
        "encoders.llava.checkpoint": "llava",
        "encoders.llava.layers": "[4]",
        "encoders.llava.dtype": "float32",
        "encoders.sam.checkpoint": "sam.pth",
        "encoders.sam.dtype": "float32",
        "store.shard_size": SHARD,
        "workers.count": 2,
    }
    start = "from pipelines.cli import main; main()"
    overrides = [part for key, value in words.items() for part in ("--set", f"{key}={value}")]
    address = ["--address", address] if address else []
    return [sys.executable, "-c", start, "extract", str(root), *overrides, *address, *more]


def launch(arguments, **environment):
    """Start the command line; what it prints goes nowhere."""
    path = os.pathsep.join(filter(None, [environment.pop("first", ""), str(REPOSITORY)]))
    return subprocess.Popen(
        arguments,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=REPOSITORY,
    )


def commits(root):
    return sorted(root.glob("commits/[hi]*/*.json"))


def wait_for(condition, process=None, seconds=120):
    """Poll; a process that ends by itself ends the waiting."""
    until = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            return
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def kill_and_resume(root, arguments, whole, moments):
    """Kill the driver once so many shards are committed, run it again, and compare at the end."""
    for moment in moments:
        driver = launch(arguments)
        wait_for(lambda moment=moment: len(commits(root)) >= moment, driver)
        driver.kill()
        driver.wait()
        assert not (root / "manifest.json").exists() or moment == 0 or commits(root)
    assert launch(arguments).wait(timeout=300) == 0
    assert_same(root, whole)


def test_ray_writes_the_same_bytes(tmp_path, cluster, coco, tiny_checkpoints, whole):
    config = settings(coco, tiny_checkpoints, shard_size=SHARD, count=2)
    reporter = Quiet()
    summary = extracted(tmp_path / "s", config, runner=on_ray(cluster), reporter=reporter)
    assert sorted(report.shard for report in summary.reports) == list(range(IMAGES // SHARD))
    assert reporter.steps[-1] == ("extract", IMAGES, IMAGES)
    assert_same(tmp_path / "s", whole)


def test_more_workers_than_the_cluster_holds_do_no_harm(
    tmp_path, cluster, coco, tiny_checkpoints, whole
):
    config = settings(coco, tiny_checkpoints, shard_size=SHARD, count=6)
    extracted(tmp_path / "s", config, runner=on_ray(cluster))
    assert_same(tmp_path / "s", whole)


def test_a_killed_driver_resumes_to_the_same_bytes(
    tmp_path, cluster, coco, tiny_checkpoints, whole
):
    arguments = command(tmp_path / "s", coco, tiny_checkpoints, cluster)
    kill_and_resume(tmp_path / "s", arguments, whole, [1, 7])


@pytest.mark.slow
def test_a_driver_killed_ten_times_resumes_to_the_same_bytes(
    tmp_path, coco, tiny_checkpoints, whole
):
    """Each with its own Ray, at moments that nothing chooses."""
    chance, root = random.Random(0), tmp_path / "s"
    arguments = command(root, coco, tiny_checkpoints)
    for _ in range(10):
        driver = launch(arguments)
        wait_for(lambda: root.exists(), driver)
        time.sleep(chance.uniform(0, 12))
        driver.kill()
        driver.wait()
    assert launch(arguments).wait(timeout=300) == 0
    assert_same(root, whole)


def test_a_killed_worker_costs_nothing(tmp_path, cluster, coco, tiny_checkpoints, whole):
    root, killed = tmp_path / "s", []

    class Killer(Quiet):
        """Kills a worker as soon as a shard is done: the others are in the middle of one."""

        def progress(self, what, done, total):
            super().progress(what, done, total)
            workers = worker_processes(cluster)
            if what == "extract" and done and len(killed) < 2 and workers:
                os.kill(workers[0], signal.SIGKILL)
                killed.append(workers[0])

    config = settings(coco, tiny_checkpoints, shard_size=SHARD, count=2)
    extracted(root, config, runner=on_ray(cluster), reporter=Killer())
    assert killed
    assert_same(root, whole)


def worker_processes(cluster):
    """Return the processes of our actors on this cluster; another may run on this machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                title = (entry / "cmdline").read_bytes()
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
                raylet = (Path("/proc") / parent / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::Worker") and cluster.encode() in raylet:
                found.append(int(entry.name))
    return found


@pytest.mark.slow  # five processes die and start again; the ledger's part has unit tests
def test_an_image_that_kills_its_worker_is_found_and_set_aside(
    tmp_path, coco, tiny_checkpoints, whole
):
    """Every worker process really dies when it decodes one certain image."""
    image = Store(whole).plan.image(4)
    deadly = tmp_path / "deadly"
    deadly.mkdir()
    (deadly / "sitecustomize.py").write_text(f"""
import importlib.abc, importlib.machinery, os, signal, sys
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "lens_cache.extraction.image_reader":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            read = module.read_image
            def deadly(data):
                if module.content_id(data) == {image.image_id!r}:
                    os.kill(os.getpid(), signal.SIGKILL)
                return read(data)
            module.read_image = deadly
        spec.loader.exec_module = exec_module
        return spec
sys.meta_path.insert(0, Finder())
""")
    root = tmp_path / "s"
    driver = launch(command(root, coco, tiny_checkpoints), first=str(deadly))
    assert driver.wait(timeout=300) == 0
    for group in ("hidden_states", "image_embeddings"):
        (record,) = quarantined(root, group).values()
        assert (record.image_id, record.stage) == (image.image_id, "crash")
    assert verify_store(root).problems == []
    assert Store(root).images(None) == [n for n in range(IMAGES) if n != 4]
    (log,) = root.glob("runs/*/shards.jsonl")
    assert sorted(json.loads(line)["shard"] for line in log.read_text().splitlines()) == list(
        range(IMAGES // SHARD)
    )


def test_repair_on_ray(tmp_path, cluster, whole):
    root = copied(whole, tmp_path / "s")
    flip(root / "image_embeddings/c/5/0/0/0")
    repair_store(root, (), Quiet(), cluster)
    assert_same(root, whole)


def test_an_error_of_a_worker_comes_back_in_one_line(tmp_path, cluster, coco, tiny_checkpoints):
    """The store's folder is lost under the workers."""
    config = settings(coco, tiny_checkpoints, shard_size=SHARD, count=1)

    def sabotage(run, ledger):
        (run.root / "plan/images.parquet").write_bytes(b"")
        on_ray(cluster)(run, ledger)

    with pytest.raises(Exception, match="it does not match its checksum") as caught:
        extracted(tmp_path / "s", config, runner=sabotage)
    assert type(caught.value).__module__ == "lens_cache.errors"
    assert "\n" not in str(caught.value)


def test_a_worker_on_a_second_kind_of_device_is_not_used(
    tmp_path, cluster, coco, tiny_checkpoints, whole
):
    root = copied(whole, tmp_path / "s")
    for group in GROUPS:
        commit = Commit.load(root, group, 0)
        computed = commit.computed | {"device": "NVIDIA A100-SXM4-40GB"}
        dataclasses.replace(commit, computed=computed).save(root)
        commit_path(root, group, 1).unlink()
    config = settings(coco, tiny_checkpoints, shard_size=SHARD, count=1)
    with pytest.raises(StoreMismatchError, match=r"A100.*workers.mixed_devices=allow") as caught:
        extracted(root, config, runner=on_ray(cluster))
    assert "\n" not in str(caught.value)
    assert not commit_path(root, GROUPS[0], 1).exists()
    workers = dataclasses.replace(config.workers, mixed_devices="allow")
    extracted(root, dataclasses.replace(config, workers=workers), runner=on_ray(cluster))
    assert verify_store(root).problems == []


def test_the_models_of_a_worker_run_in_one_thread(cluster):
    class Threads(Worker):
        def run(self, task):
            return threading.get_ident()

        run = ray.method(concurrency_group="models")(run)

    ray.init(address=cluster, log_to_driver=False)
    try:
        settings = to_tree(ExtractConfig())
        worker = ray.remote(**OPTIONS, num_cpus=0)(Threads).remote(None, settings, (), "cpu", {})
        threads = set()
        for _ in range(12):
            number = worker.run.remote(None)
            assert ray.get(worker.images_done.remote()) == 0
            threads.add(ray.get(number))
        assert len(threads) == 1
    finally:
        ray.shutdown()


def test_a_cluster_of_this_machine_answers_only_with_its_token(tmp_path):
    """Ray listens on all interfaces, and runs what it is sent."""
    ours = """
import ray
from pipelines.extraction.ray_cluster import connect
assert connect(None)
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""
    stranger = """
import sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
print(ray.get(ray.remote(lambda: "executed").options(num_cpus=0).remote()))
"""
    quiet = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    cluster = subprocess.Popen(
        [sys.executable, "-c", ours],
        cwd=REPOSITORY,
        env=quiet,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = cluster.stdout.readline().strip()
        assert address
        done = subprocess.run(
            [sys.executable, "-c", stranger, address],
            env={**quiet, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode != 0
        assert "executed" not in done.stdout
    finally:
        cluster.communicate("\n", timeout=300)
