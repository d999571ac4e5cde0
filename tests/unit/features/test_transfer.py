"""Copies to a device and back, also on a GPU if there is one."""

from contextlib import nullcontext

import pytest
import torch

from lens_cache.features.transfer import Transfer

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
def test_values_go_to_the_device_and_come_back(device):
    transfer = Transfer(device)
    arrivals = []
    for number in range(20):  # more than are ever in flight: no buffer may be used twice at once
        there = transfer.upload(torch.full((1000, 100), float(number)))
        assert there.device.type == device
        arrivals.append(transfer.download({"a": there * 2, "b": there.bfloat16()[:3]}))
    for number, arrival in enumerate(arrivals):
        found = arrival.wait()
        assert all(value.device.type == "cpu" for value in found.values())
        assert torch.equal(found["a"], torch.full((1000, 100), 2.0 * number))
        assert torch.equal(found["b"], torch.full((3, 100), number).bfloat16())


def test_the_host_sleeps_while_it_waits(monkeypatch):
    """By default it keeps a core busy, which the threads that read images need."""
    waited = []

    class Event:
        def __init__(self, blocking=False):
            self.blocking = blocking

        def synchronize(self):
            waited.append(self.blocking)

    class Stream:
        def wait_stream(self, other):
            pass

        def record_event(self, event=None):
            return event or Event()

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr("lens_cache.features.transfer._stream", lambda device: Stream())
    Transfer("cuda").download({}).wait()
    assert waited == [True]


@pytest.mark.parametrize("device", DEVICES)
def test_time_on_the_device_is_counted(device):
    transfer = Transfer(device)
    start = transfer.mark()
    matrix = transfer.upload(torch.ones(500, 500))
    middle = transfer.mark()
    for _ in range(50):
        matrix = matrix @ matrix / 500
    end = transfer.mark()
    transfer.download({"matrix": matrix}).wait()
    assert start.seconds_until(middle) >= 0
    assert middle.seconds_until(end) > 0
    total = start.seconds_until(middle) + middle.seconds_until(end)
    assert start.seconds_until(end) == pytest.approx(total, rel=1e-3, abs=1e-5)
