"""Settings and folders that every test shares."""

import os
import sys
from pathlib import Path

import hypothesis
import pytest
import torch

from lens_cache.toy.random_checkpoints import write_tiny_checkpoints
from pipelines import cli
from tests.support.pictures import write_coco
from tests.support.s3 import BUCKET, environment, filesystem, s3_server
from tests.support.stores import extracted, settings

torch.set_num_threads(1)

# How long an example takes says nothing on a machine with other work. In CI the examples are always
# the same, so that a failure there is one of the change; on a desk each run tries new ones.
hypothesis.settings.register_profile(
    "house",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
hypothesis.settings.load_profile("house")


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory) -> Path:
    """A folder with ``llava/`` and ``sam.pth``; do not write into it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    write_tiny_checkpoints(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory) -> Path:
    """A COCO folder with five images of 40 x 30 pixels; do not write into it."""
    folder = tmp_path_factory.mktemp("data") / "coco"
    return write_coco(folder, num_images=5, width=40, height=30)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory, tiny_coco, tiny_checkpoints) -> Path:
    """A complete float32 store of the images, in three shards; do not write into it."""
    root = tmp_path_factory.mktemp("stores") / "store"
    extracted(root, settings(tiny_coco, tiny_checkpoints))
    return root


@pytest.fixture(scope="session")
def s3():
    """The URL of an S3-speaking server, to which the environment leads; its bucket is ``lens``."""
    with s3_server() as url, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(url).items():
            patch.setenv(name, value)
        filesystem().mkdir(BUCKET)
        yield url


@pytest.fixture(autouse=True)
def no_process_group():
    """End what a training with DDP or FSDP opened in this process.

    Lightning leaves it open, and its address in the environment: a training that another test
    starts in processes of its own would find the port taken.
    """
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)


@pytest.fixture
def lens_cache(monkeypatch, capfd):
    """Run the command line in this process; returns exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lens-cache", *map(str, arguments)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        return code, out, err

    return run
