import os
import signal
import time

import pytest

from pipelines.interrupt import Interrupted, resume_command, stop_on_signals


def send(signum):
    os.kill(os.getpid(), signum)
    time.sleep(0)  # the handler runs at the next bytecode


def described():
    return "2 of 3"


def interrupted(work, say=print):
    """Run some work under the handlers; returns what it was interrupted with."""
    try:
        with stop_on_signals(say, described) as stop:
            work(stop)
    except Interrupted as caught:
        return caught
    raise AssertionError("nothing interrupted it")


def test_the_first_signal_only_asks_where_work_can_drain():
    said, steps = [], []
    before = signal.getsignal(signal.SIGTERM)

    def work(stop):
        with stop.draining():
            assert not stop.requested
            send(signal.SIGTERM)
            assert stop.requested
            steps.append("the shard under way is finished")
        steps.append("never reached")

    caught = interrupted(work, said.append)
    assert (str(caught), caught.signum) == ("stopped by SIGTERM: 2 of 3", signal.SIGTERM)
    assert steps == ["the shard under way is finished"]
    (line,) = said
    assert line.startswith("SIGTERM: finishing the current shards")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_stops_at_once_and_the_first_names_the_exit(second):
    steps = []

    def work(stop):
        with stop.draining():
            send(signal.SIGINT)
            steps.append("drains")
            send(second)
            steps.append("never reached")

    assert interrupted(work).signum == signal.SIGINT
    assert steps == ["drains"]


def test_where_nothing_drains_the_first_signal_stops_at_once():
    steps = []

    def work(_):
        send(signal.SIGINT)
        steps.append("never reached")

    interrupted(work)
    assert steps == []


def test_a_library_that_took_the_signal_gives_it_back():
    def work(stop):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        stop.listen()
        send(signal.SIGTERM)

    interrupted(work)


def test_what_raises_by_itself_is_left_alone():
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), stop_on_signals(print, described):
            raise error


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["extract", "a store", "--json"], "lens-cache extract 'a store' --json"),
        (["extract", "s", "--replace", "hidden_states", "-c", "x"], "lens-cache extract s -c x"),
        (["extract", "s", "--replace=hidden_states", "--force"], "lens-cache extract s --force"),
        (["extract", "--retry-quarantined", "s"], "lens-cache extract s"),
    ],
)
def test_a_resumed_command_does_not_repeat_its_one_time_options(arguments, command):
    """Repeating --replace would discard the shards that were extracted since."""
    assert resume_command(arguments) == command
