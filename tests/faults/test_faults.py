"""Faults in real processes. However an extraction is disturbed, the store that it ends in is the
one that an undisturbed extraction writes (invariant I1); what is damaged is found (I2).
"""

import os
import random
import shlex
import signal

import pytest

from pipelines.extraction.verify import repair_store
from tests.faults import injections
from tests.faults.processes import Extraction, commits, environment, workers_of
from tests.faults.soak import FAULTS, Raylets, attempt
from tests.faults.world import IMAGES, SHARD, make_world
from tests.support.stores import Quiet, copied, flip

SHARDS = IMAGES // SHARD


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def test_a_cluster_that_loses_a_node_and_gains_another(world, tmp_path, monkeypatch):
    """The node that joins gets a worker though nobody said how many there are to be."""
    from ray.cluster_utils import Cluster

    gate, root = tmp_path / "gate", tmp_path / "store"
    for name, value in environment(gate=str(gate)).items():
        monkeypatch.setenv(name, value)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        lost = cluster.add_node(num_cpus=1)
        extraction = Extraction(world, root, "--address", cluster.address, workers=None)
        assert extraction.until(lambda: commits(root)), extraction.last_line()
        cluster.remove_node(lost, allow_graceful=False)
        joined = cluster.add_node(num_cpus=1)
        (raylet,) = joined.all_processes["raylet"]
        assert extraction.until(lambda: workers_of(raylet.process.pid)), extraction.last_line()
        gate.touch()
        injections.finished(extraction)
    finally:
        cluster.shutdown()
    assert world.differences(root) == []


def test_a_signal_drains_and_tells_how_to_go_on(world, tmp_path):
    """Meanwhile a second extraction of the same store is refused."""
    gate, root = tmp_path / "gate", tmp_path / "store"
    first = Extraction(world, root, gate=str(gate))
    assert first.until(lambda: commits(root)), first.last_line()
    second = Extraction(world, root, log="second")
    assert injections.refused(second), second.last_line()
    # To the driver alone: a signal to the group ends Ray's own servers too.
    first.process.send_signal(signal.SIGTERM)
    assert first.until(lambda: "SIGTERM: finishing the current shards" in first.said())
    gate.touch()
    assert first.wait() == 128 + signal.SIGTERM
    done = len(commits(root)) // 2
    assert 0 < done < SHARDS
    line, command = first.last_line().split("; resume with: ")
    assert line == f"lens-cache: stopped by SIGTERM: {done} of {SHARDS} shards of {root} are done"
    assert shlex.split(command)[:3] == ["lens-cache", "extract", str(root)]
    injections.finished(Extraction(world, root, words=shlex.split(command)[3:]))
    assert world.differences(root) == []


@pytest.mark.slow
def test_a_device_that_fails_costs_no_image(world, tmp_path):
    """It is tried twice; if it fails again, nothing is lost, and the same command resumes."""
    root = tmp_path / "store"
    for times, code in ((1000, 1), (1, 0)):
        count = tmp_path / f"{times}.count"
        extraction = Extraction(world, root, log=str(times), device=[str(count), times])
        assert extraction.wait() == code, extraction.last_line()
        assert "uncorrectable ECC error encountered" in extraction.said()
        assert "trying it once more" in extraction.said()
        assert len(count.read_text()) == (2 if code else 1)
    assert world.differences(root) == []


def test_a_flipped_bit_is_found_wherever_it_is(world, tmp_path):
    chance, root = random.Random(0), copied(world.whole, tmp_path / "store")
    names = injections.stored_files(root)
    missed = []
    for name in [*names, *chance.choices(names, k=60)]:
        position = chance.randrange((root / name).stat().st_size)
        bits = 1 << chance.randrange(8)
        flip(root / name, position, bits)
        if not injections.found_by_verify(root):
            missed.append((name, position))
        flip(root / name, position, bits)
    assert missed == []
    assert not injections.found_by_verify(root)


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_mended_and_no_other_shard_touched(world, tmp_path, seed):
    row = attempt("byte_flipped", world, tmp_path, seed, None)
    assert row["outcome"] == "same", row


def test_a_manifest_is_mended_from_its_spare(world, tmp_path):
    root = copied(world.whole, tmp_path / "store")
    flip(root / "manifest.json")
    repair_store(root, (), Quiet(), runner=no_work)
    assert world.differences(root) == []


def no_work(run, ledger):
    raise AssertionError("nothing was to be extracted")


@pytest.mark.slow
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_every_fault_ends_in_the_undisturbed_store(world, tmp_path, fault, monkeypatch):
    for name in environment():
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back what the raylets inherit
    raylets = Raylets()
    try:
        row = attempt(fault, world, tmp_path, 0, raylets)
    finally:
        raylets.shutdown()
    if row["outcome"] == "not possible here":
        pytest.skip(row["injected"])
    assert row["outcome"] == "same", row
