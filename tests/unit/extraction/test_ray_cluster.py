"""How many workers share a node."""

import pytest

from pipelines.extraction import ray_cluster

NODES = [
    {"NodeID": "gpu", "Alive": True, "Resources": {"CPU": 64.0, "GPU": 8.0, "memory": 256e9}},
    {"NodeID": "cpu", "Alive": True, "Resources": {"CPU": 16.0, "memory": 8e9}},
]


@pytest.mark.parametrize(
    ("node", "options", "count", "expected"),
    [
        ("gpu", {"num_cpus": 1, "num_gpus": 1}, None, (8, 64)),
        ("gpu", {"num_cpus": 1, "num_gpus": 0.5}, None, (16, 64)),
        ("gpu", {"num_cpus": 16, "num_gpus": 1}, None, (4, 64)),
        ("gpu", {"num_cpus": 1, "num_gpus": 1}, 2, (2, 64)),
        ("cpu", {"num_cpus": 2}, None, (8, 16)),
        ("cpu", {"num_cpus": 2, "memory": int(4e9)}, None, (2, 16)),
        ("gone", {"num_cpus": 2}, None, (1, 1)),
    ],
)
def test_workers_share_the_cores_of_their_node(monkeypatch, node, options, count, expected):
    monkeypatch.setattr(ray_cluster.ray, "nodes", lambda: NODES)
    assert ray_cluster.workers_on_node(node, options, count) == expected
