"""Waiting is told of when it takes most of the time, and not otherwise."""

import time
from types import SimpleNamespace

import pytest

from pipelines.training import throughput as speed
from pipelines.training.throughput import Speed, WaitingTime

FETCH = "[_TrainingEpochLoop].train_dataloader_next"


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: found.now)
    return found


class Run:
    """Goes through the hooks as a trainer does."""

    def __init__(self, clock, *, accumulate=1, world=1, log_every=2):
        self.clock, self.accumulate = clock, accumulate
        self.waiting = WaitingTime()
        self.speed = Speed(self.waiting, log_every)
        self.trainer = SimpleNamespace(global_step=0, world_size=world)
        self.logged = []
        self.module = SimpleNamespace(log_dict=lambda values, **_: self.logged.append(values))
        self.batches = 0
        self.speed.on_train_start(self.trainer)

    def step(self, wait, work, idle=0.0):
        batch = SimpleNamespace(
            draws=(0, 1), features=SimpleNamespace(num_questions=(2, 1)), targets=None
        )
        self.waiting.start(FETCH)
        self.clock.now += wait
        self.waiting.stop(FETCH)
        self.speed.on_train_batch_start(self.trainer, self.module, batch, 0)
        self.clock.now += work
        self.batches += 1
        self.trainer.global_step = self.batches // self.accumulate
        self.speed.on_train_batch_end(self.trainer, self.module)
        self.waiting.start("[Callback]validation")
        self.clock.now += idle  # a validation
        self.waiting.stop("[Callback]validation")


def test_rates_are_of_all_processes_without_validations(clock):
    run = Run(clock, accumulate=2, world=4)
    for _ in range(8):
        run.step(wait=1.0, work=3.0, idle=100.0)
    assert (
        run.logged
        == [
            pytest.approx(
                {
                    "speed/images_per_s": 4 * 8 / 16,
                    "speed/questions_per_s": 4 * 12 / 16,
                    "speed/step_s": 8.0,
                    "speed/waiting": 0.25,
                }
            )
        ]
        * 2
    )


def test_much_waiting_is_told_of_once(clock, capsys):
    run = Run(clock)
    for _ in range(10):
        run.step(wait=3.0, work=1.0)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("lens-cache: 75 % of the time is spent waiting for data; set batch.lo")


@pytest.mark.parametrize("first", [0.0, 50.0])
def test_a_busy_device_and_a_slow_start_are_not(clock, capsys, first):
    run = Run(clock)
    run.step(wait=first, work=1.0)
    for _ in range(9):
        run.step(wait=0.9, work=1.0)
    assert capsys.readouterr().err == ""


class Event:
    """Stands for one of CUDA: done or not when it is asked."""

    done = True

    def __init__(self, device):
        assert device == "cuda"

    def record(self):
        pass

    def query(self):
        return self.done


@pytest.mark.parametrize("done", [True, False])
def test_a_gpu_that_still_works_has_not_waited(clock, monkeypatch, done):
    monkeypatch.setattr(speed, "_on_gpu", lambda: True)
    monkeypatch.setattr(speed.torch, "Event", Event)
    monkeypatch.setattr(Event, "done", done)
    waiting = WaitingTime()
    waiting.start(FETCH)
    clock.now += 2.0
    waiting.stop(FETCH)
    assert waiting.seconds == (2.0 if done else 0.0)
