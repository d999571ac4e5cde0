"""The files for a cluster name things that exist; nothing here runs them."""

import json
import os
import re
import shlex
import subprocess
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import jsonschema
import pytest
import yaml

from lens_cache.config.extract import ExtractConfig
from lens_cache.config.load import load_config
from tests.support import REPOSITORY

FILES = REPOSITORY / "configs/cluster"


def test_the_kubernetes_job_asks_for_settings_that_exist():
    job = yaml.safe_load((FILES / "kuberay.yaml").read_text())["spec"]
    words = shlex.split(job["entrypoint"])
    assert words[:2] == ["lens-cache", "extract"]
    overrides = [after for word, after in pairwise(words) if word == "--set"]
    workers = load_config(ExtractConfig, None, overrides).workers
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert (workers.device, workers.count) == ("cuda", group["maxReplicas"])
    (pinned,) = re.findall(r"^ray==(\S+)$", (REPOSITORY / "requirements.txt").read_text(), re.M)
    assert job["rayClusterSpec"]["rayVersion"] == pinned


def test_ray_up_would_read_its_file():
    config = yaml.safe_load((FILES / "aws.yaml").read_text())
    schema = Path(find_spec("ray").submodule_search_locations[0]) / "autoscaler/ray-schema.json"
    jsonschema.validate(config, json.loads(schema.read_text()))
    assert config["head_node_type"] in config["available_node_types"]


def test_bash_reads_the_slurm_script():
    subprocess.run(["bash", "-n", str(FILES / "slurm.sh")], check=True)


@pytest.fixture
def slurm(tmp_path):
    """Run a job script with commands of Slurm that print their arguments."""
    programs, submit = tmp_path / "bin", tmp_path / "submit"
    programs.mkdir()
    (submit / ".venv/bin").mkdir(parents=True)
    (submit / ".venv/bin/activate").touch()
    for name, says in {"srun": 'printf "%s\\n" "$@"', "scontrol": 'echo "node1\nnode2"'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{says}\n")
        (programs / name).chmod(0o755)

    def run(script, *arguments):
        done = subprocess.run(
            ["bash", str(FILES / script), *arguments],
            env={
                "PATH": f"{programs}:{os.environ['PATH']}",
                "SLURM_SUBMIT_DIR": str(submit),
                "SLURM_JOB_NODELIST": "node[1-2]",
                "SLURM_JOB_NUM_NODES": "2",
                "SLURM_NTASKS_PER_NODE": "8",
                "SLURM_CPUS_PER_TASK": "32",
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    return run


def test_an_extraction_on_slurm_gets_the_cores_of_its_nodes(slurm):
    """Since Slurm 22.05 srun does not inherit --cpus-per-task from sbatch."""
    words = slurm("slurm.sh", "STORE", "-c", "coco")
    assert "--cpus-per-task=32" in words
    assert words[words.index("--address") + 1] == "node1:6379"
    assert words[words.index("--") + 1 :] == [
        *("lens-cache", "extract", "STORE", "-c", "coco", "--address", "auto")
    ]


def test_a_training_on_slurm_has_one_process_per_gpu(slurm):
    words = slurm("train.slurm", "RUN", "--store", "STORE")
    assert "--cpus-per-task=32" in words
    assert words[words.index("lens-cache") :] == [
        *("lens-cache", "train", "RUN", "--store", "STORE"),
        *("--set", "trainer.num_nodes=2", "--set", "trainer.devices=8"),
    ]
