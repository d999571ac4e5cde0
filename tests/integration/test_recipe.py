"""What a training computes does not depend on how the work is divided."""

import csv
import dataclasses
import os
import socket
import subprocess
import sys

import pytest
import torch
from lightning import Trainer

import lens_cache.training.optimizer as optimizer_module
import pipelines.training.loggers as loggers_module
from lens_cache.config.load import to_yaml
from lens_cache.errors import ConfigError
from lens_cache.models.descriptor import DescriptorModel
from lens_cache.store.store import Store
from lens_cache.training.run import Run
from pipelines.training import strategies
from pipelines.training.module import LensModule
from pipelines.training.train import train
from tests.integration.test_training import recipe
from tests.support import REPOSITORY

# Nothing random in the model, which draws per batch; as many questions as an image has.
SAME = {"model": {"global_only_probability": 0.0}}
SCRIPT = """
from lens_cache.models.descriptor import DescriptorModel
from pipelines.cli import main
if __name__ == "__main__":
    DescriptorModel.__init__.__kwdefaults__["dropout"] = 0.0
    main()
"""
PLAIN = """
from pipelines.cli import main
if __name__ == "__main__":
    main()
"""
# What a scheduler does to a job: both processes die before the given batch.
KILLED = """
import os
import socket
import pipelines.training.module as training

def step(self, batch, number, before=training.LensModule.training_step):
    if number == AT:
        os._exit(9)
    return before(self, batch, number)

training.LensModule.training_step = step
from pipelines.cli import main
if __name__ == "__main__":
    main()
"""


@pytest.fixture
def without_dropout(monkeypatch):
    monkeypatch.setitem(DescriptorModel.__init__.__kwdefaults__, "dropout", 0.0)


def in_processes(folder, store, config, *arguments, source=SCRIPT, environment=None):
    """Train by the command line, which starts the processes that the strategy needs."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    script, file = folder.with_suffix(".py"), folder.with_suffix(".yaml")
    script.write_text(source)
    file.write_text(to_yaml(config))
    return subprocess.run(
        [sys.executable, script, "train", folder, "--store", store, "-c", file, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def content(folder, which="last"):
    return torch.load(folder / f"checkpoints/{which}.ckpt", weights_only=True)


def gradients(folder):
    """Return the first moments, a mean of gradients, of every weight that is trained."""
    (states,) = content(folder)["optimizer_states"]
    return [states["state"][number]["exp_avg"] for number in sorted(states["state"])]


def rows(folder, log="000"):
    with (folder / f"logs/{log}/metrics.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def logged(folder, name, log="000"):
    return [float(row[name]) for row in rows(folder, log) if row.get(name)]


def assert_same_training(one, other, steps):
    """Same losses, same gradients up to rounding, hence the same weights."""
    for name in ("train/total", "train/dice", "train/attention", "train/keypoints"):
        first, second = logged(one, name), logged(other, name)
        assert len(first) == steps
        assert second == pytest.approx(first, rel=2e-4)
    for mine, others in zip(gradients(one), gradients(other), strict=True):
        assert (mine - others).norm() <= 1e-3 * mine.norm() + 1e-7
    before, after = content(one)["state_dict"], content(other)["state_dict"]
    assert before.keys() == after.keys()
    assert all(before[name].shape == after[name].shape for name in before)


def test_accumulated_batches_are_one_big_batch(tmp_path, tiny_store, without_dropout):
    """Their numbers of questions differ, so a mean of means would be another one."""
    store = Store(tiny_store)
    counts = {len(store.plan.query_range(image)) for image in store.images("train2017")}
    assert len(counts) > 1
    for name, batch in (("big", (4, 1)), ("four", (1, 4))):
        settings = {"images": batch[0], "accumulate": batch[1], "queries_per_image": 9}
        config = recipe(max_steps=2, batch=settings, **SAME)
        train(tmp_path / name, tiny_store, config, resume=False)
    assert_same_training(tmp_path / "big", tmp_path / "four", steps=2)


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_train_as_one(tmp_path, tiny_store, without_dropout, strategy):
    batch = {"images": 2, "accumulate": 2, "queries_per_image": 9}
    train(tmp_path / "one", tiny_store, recipe(max_steps=2, batch=batch, **SAME), resume=False)
    batch["images"] = 1
    config = recipe(max_steps=2, batch=batch, devices=2, strategy=strategy, **SAME)
    done = in_processes(tmp_path / "two", tiny_store, config)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(tmp_path / "one", tmp_path / "two", steps=2)
    one, two = (Run.open(tmp_path / name).load_model() for name in ("one", "two"))
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], weight, atol=2.5e-3, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_go_on_where_they_were_killed(tmp_path, tiny_store, strategy):
    """Behind a mixture, with accumulation and loader processes; killed inside a step."""
    batch = {
        "mixture": [{"rate": 1, "datasets": ["coco"]}],
        "images": 1,
        "accumulate": 2,
        "loader_workers": 2,
    }
    config = recipe(max_steps=4, batch=batch, devices=2, strategy=strategy)
    whole, again = tmp_path / "whole", tmp_path / "again"
    done = in_processes(whole, tiny_store, config, source=PLAIN)
    assert done.returncode == 0, done.stderr[-3000:]
    killed = in_processes(again, tiny_store, config, source=KILLED.replace("AT", "7"))
    assert killed.returncode != 0
    assert content(again)["global_step"] == 2
    resumed = in_processes(again, tiny_store, config, "--resume", source=PLAIN)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    one, other = content(whole), content(again)
    assert other["global_step"] == 4
    for name, weight in one["state_dict"].items():
        assert torch.equal(other["state_dict"][name], weight), name


def test_a_run_goes_on_with_another_number_of_loader_processes(tmp_path, tiny_store):
    def config(steps, workers):
        mixture = [{"rate": 2, "datasets": ["coco"]}]
        batch = {"mixture": mixture, "accumulate": 3, "images": 1, "loader_workers": workers}
        return recipe(max_steps=steps, batch=batch)

    whole = train(tmp_path / "whole", tiny_store, config(6, 0), resume=False)
    train(tmp_path / "again", tiny_store, config(2, 2), resume=False)
    train(tmp_path / "again", tiny_store, config(4, 0), resume=True)
    again = train(tmp_path / "again", tiny_store, config(6, 1), resume=True)
    before, after = content(whole.folder)["state_dict"], content(again.folder)["state_dict"]
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("strategy", ["auto", "fsdp"])
def test_gradients_are_clipped_together(tmp_path, tiny_store, precision, strategy):
    optimizer, trainer = {"gradient_clip": 0.01}, {"precision": precision, "strategy": strategy}
    config = recipe(max_steps=1, optimizer=optimizer, devices=1, **trainer)
    run = train(tmp_path / "run", tiny_store, config, resume=False)
    assert logged(run.folder, "train/gradient_norm")[0] > 0.1
    # After one step the first moment is a tenth of the gradient.
    norm = torch.cat([gradient.flatten() for gradient in gradients(run.folder)]).norm()
    assert float(norm) == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp"])
def test_weights_and_states_stay_in_float32_under_bfloat16(tmp_path, tiny_store, strategy):
    config = recipe(max_steps=2, precision="bf16-mixed", devices=1, strategy=strategy)
    run = train(tmp_path / "run", tiny_store, config, resume=False)
    saved = content(run.folder)
    assert {weight.dtype for weight in saved["state_dict"].values()} == {torch.float32}
    (optimizer,) = saved["optimizer_states"]
    kept = [value for state in optimizer["state"].values() for value in state.values()]
    assert len(kept) > 100
    assert {value.dtype for value in kept} == {torch.float32}


def test_states_of_8_bits_train_and_resume(tmp_path, tiny_store):
    config = recipe(max_steps=4, optimizer={"states": "8bit"})
    whole = train(tmp_path / "whole", tiny_store, config, resume=False)
    plain = train(tmp_path / "plain", tiny_store, recipe(max_steps=4), resume=False)
    (optimizer,) = content(whole.folder)["optimizer_states"]
    states = [one["__bnb_optimizer_quant_state__"] for one in optimizer["state"].values()]
    for state in states:
        wide = state["state1"].numel() >= 4096
        assert state["state1"].dtype == (torch.uint8 if wide else torch.float32)
        assert state["state2"].dtype == state["state1"].dtype
    assert sum(state["state1"].dtype == torch.uint8 for state in states) > 10
    losses = logged(whole.folder, "train/total")
    assert losses == pytest.approx(logged(plain.folder, "train/total"), rel=0.1)
    assert losses[1:] != logged(plain.folder, "train/total")[1:]
    half = dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, max_steps=2))
    train(tmp_path / "again", tiny_store, half, resume=False)
    again = train(tmp_path / "again", tiny_store, config, resume=True)
    before, after = content(whole.folder)["state_dict"], content(again.folder)["state_dict"]
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_the_optimizer_holds_what_is_trained_and_nothing_else(tmp_path, tiny_store):
    store = Store(tiny_store)
    module = LensModule(recipe(model={"layer": 4}), store.frozen(), store)
    module.trainer = Trainer(max_steps=1, logger=False, accelerator="cpu")
    held = module.configure_optimizers()["optimizer"].param_groups[0]["params"]
    trained = [parameter for parameter in module.model.parameters() if parameter.requires_grad]
    assert [id(p) for p in held] == [id(p) for p in trained]
    assert len(trained) < len(list(module.model.parameters()))


@pytest.mark.parametrize(
    "switch", ["checkpoint_activations", pytest.param("compile", marks=pytest.mark.slow)]
)
def test_switches_that_change_no_result(tmp_path, tiny_store, without_dropout, switch):
    plain, switched = (
        recipe(max_steps=2, batch={"queries_per_image": 3}, **SAME, **settings)
        for settings in ({}, {switch: True})
    )
    train(tmp_path / "plain", tiny_store, plain, resume=False)
    done = in_processes(tmp_path / "switched", tiny_store, switched)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(tmp_path / "plain", tmp_path / "switched", steps=2)


def test_without_a_compiler_compiling_is_refused(tmp_path, tiny_store):
    config = recipe(max_steps=1, compile=True)
    done = in_processes(
        tmp_path / "run",
        tiny_store,
        config,
        environment={"CXX": "/nowhere/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("lens-cache:")]
    assert "trainer.compile" in line
    assert "set trainer.compile=false" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "missing", "message"),
    [
        ({"strategy": "deepspeed_stage_2"}, "deepspeed", "deepspeed is not installed; run `pip"),
        ({"strategy": "deepspeed_stage_2"}, None, "needs GPUs, found none"),
        ({"strategy": "fsdp", "optimizer": {"states": "8bit"}}, None, "set it to float32, or"),
        ({"strategy": "fsdp", "precision": "16-mixed"}, None, "set it to bf16-mixed or 32-true"),
        ({"optimizer": {"states": "8bit"}}, "bitsandbytes", r"pip install 'lens-cache\[8bit\]'"),
        ({"logger": "tensorboard"}, "tensorboard", r"pip install 'lens-cache\[log\]'"),
        ({"logger": "wandb"}, "wandb", r"pip install 'lens-cache\[log\]'"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line(
    tmp_path, tiny_store, monkeypatch, settings, missing, message
):
    for module in (optimizer_module, strategies, loggers_module):
        monkeypatch.setattr(module, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(ConfigError, match=message) as error:
        train(tmp_path / "run", tiny_store, recipe(**settings), resume=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_more_devices_than_there_are_is_refused(tmp_path, tiny_store):
    config = recipe(accelerator="cuda", devices=64)
    with pytest.raises(ConfigError, match="setting up the trainer"):
        train(tmp_path / "run", tiny_store, config, resume=False)


def test_two_machines_train_as_one(tmp_path, tiny_store, without_dropout):
    """Two launchers with one process each, as ``torchrun`` on two machines."""
    batch = {"images": 2, "accumulate": 1, "queries_per_image": 9}
    train(tmp_path / "one", tiny_store, recipe(max_steps=2, batch=batch, **SAME), resume=False)
    config = recipe(
        max_steps=2, batch={**batch, "images": 1}, devices=1, num_nodes=2, strategy="ddp", **SAME
    )
    script, file, folder = tmp_path / "run.py", tmp_path / "two.yaml", tmp_path / "two"
    script.write_text(SCRIPT)
    file.write_text(to_yaml(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2"]
    launch += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1"]
    command = [script, "train", folder, "--store", tiny_store, "-c", file]
    machines = [
        subprocess.Popen(
            [*launch, "--node-rank", str(rank), "--master-port", port, *command],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [machine.communicate(timeout=500)[1] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert_same_training(tmp_path / "one", folder, steps=2)


@pytest.mark.parametrize(
    "environment",
    [
        {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0"}
        | {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        | {"MASTER_PORT": "29501"},
        {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "1"}
        | {"SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
        | {"SLURM_JOB_NODELIST": "localhost", "SLURM_NODELIST": "localhost", "SLURM_JOB_ID": "7"},
    ],
    ids=["torchrun", "slurm"],
)
def test_a_launcher_that_starts_other_processes_is_one_line(tmp_path, tiny_store, environment):
    config = recipe(max_steps=1, devices=2, strategy="ddp")
    done = in_processes(tmp_path / "run", tiny_store, config, environment=environment)
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr[-3000:]
    assert line.startswith("lens-cache: setting up the trainer for 1 machines with 2 devices each")
    assert "set trainer.num_nodes and trainer.devices to what the launcher starts" in line
