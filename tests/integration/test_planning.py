"""Planning on Ray: the same bytes as in threads, whatever dies on the way."""

import functools
import os
import signal

import pytest

from lens_cache.config.data import DataConfig
from lens_cache.datasets.source import DataSource, in_threads
from lens_cache.errors import DatasetError
from lens_cache.plan.build import build_plan
from pipelines.extraction.ray_planning import ray_mapper
from tests.support.pictures import write_coco

IMAGES = 70  # three chunks


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    root = write_coco(tmp_path_factory.mktemp("data") / "coco", num_images=IMAGES)
    (root / "train2017/0033.png").write_text("not a picture")
    return DataConfig(root=root, split="train2017", templates="lens")


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of this machine, for all tests of this module."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield cluster.address
    cluster.shutdown()


def die(folder, times, source, chunk):
    """Kill the process that works on chunk 1, a number of times."""
    flags = len(list(folder.iterdir()))
    if chunk == 1 and flags < times:
        (folder / str(flags)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return chunk, os.getpid(), len(source.open())


def wrong(source, chunk):
    raise DatasetError(f"chunk {chunk} is wrong")


def test_the_plan_is_the_same_bytes_as_in_threads(coco, cluster):
    calls = []
    plan = build_plan(
        coco, mapper=ray_mapper(cluster, min_chunks=1), progress=lambda *call: calls.append(call)
    )
    assert plan.to_files() == build_plan(coco, mapper=in_threads(3)).to_files()
    assert plan.quarantine.num_rows == 1
    assert calls == [("plan", 32, 70), ("plan", 64, 70), ("plan", 70, 70)]


def test_a_worker_that_dies_is_replaced(coco, cluster, tmp_path):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    mapped = ray_mapper(cluster, min_chunks=1)
    found = list(mapped(DataSource(coco), functools.partial(die, tmp_path, 1), range(6)))
    assert [(chunk, length) for chunk, _, length in found] == [(n, IMAGES) for n in range(6)]
    assert os.getpid() not in {process for _, process, _ in found}
    assert len(list(tmp_path.iterdir())) == 1
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_records_that_kill_every_worker_end_the_plan(coco, cluster, tmp_path):
    mapped = ray_mapper(cluster, min_chunks=1)
    with pytest.raises(DatasetError, match=r"a worker process died 4 times on the same records"):
        list(mapped(DataSource(coco), functools.partial(die, tmp_path, 99), range(3)))


def test_an_error_comes_back_as_it_was(coco, cluster):
    with pytest.raises(DatasetError, match=r"^chunk 0 is wrong$"):
        list(ray_mapper(cluster, min_chunks=1)(DataSource(coco), wrong, range(3)))


def test_little_work_stays_in_this_process(coco):
    found = list(ray_mapper(None)(DataSource(coco), functools.partial(die, coco.root, 0), range(3)))
    assert {process for _, process, _ in found} == {os.getpid()}
