"""Which stage sets the pace, when stages overlap."""

import threading

import pytest

from lens_cache.extraction.stage_times import StageTimes, bottleneck, busy_shares


@pytest.mark.parametrize(
    ("seconds", "slowest"),
    [
        # Reading took most seconds, but two threads share them: the model was busy all the time.
        ({"read": 16.0, "llava": 9.5, "write": 1.0}, "models"),
        ({"read": 19.0, "llava": 6.0, "write": 1.0}, "read"),
        ({"read": 2.0, "llava": 5.0, "write": 9.7}, "write"),
        ({"read": 2.0, "llava": 2.0, "write": 1.0, "commit": 7.0}, "commit"),
        # Two threads encode.
        ({"read": 2.0, "llava": 8.0, "encode": 15.0, "write": 1.0}, "models"),
        ({"read": 2.0, "llava": 8.0, "encode": 19.0, "write": 1.0}, "encode"),
    ],
)
def test_the_lane_that_the_clock_follows_is_named(seconds, slowest):
    assert bottleneck(busy_shares(seconds, wall=10.0, readers=2)) == slowest


def test_both_models_take_turns_on_one_device():
    seconds = {"read": 7.0, "llava": 4.0, "sam": 5.0, "write": 6.0, "commit": 0.5}
    shares = busy_shares(seconds, wall=10.0, readers=2)
    assert shares == {"read": 0.35, "models": 0.9, "write": 0.6, "commit": 0.05}
    assert bottleneck(shares) == "models"


def test_nothing_is_blamed_where_nothing_was_busy():
    assert bottleneck({"read": 0.3, "models": 0.5}) is None
    assert bottleneck({}) is None
    assert busy_shares({}, wall=0.0, readers=1) == {}


def test_threads_add_to_one_stage():
    times = StageTimes()
    threads = [
        threading.Thread(target=lambda: [times.add("read", 1.0) for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert times.take() == {"read": 2000.0}
    assert times.take() == {}
