"""The files for a cluster name things that exist; nothing here runs them."""

import json
import re
import shlex
import subprocess
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import jsonschema
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
