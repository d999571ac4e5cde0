"""Requests that arrive together run together, and each gets its own answer or its own error."""

import threading

import numpy as np
import pytest

from lens_cache.errors import ConfigError
from pipelines.serve.batcher import Batcher, QueueFullError

PIXELS = np.zeros((4, 4, 3), np.uint8)


class Predictor:
    """Answers with the instructions; waits for ``go`` before the first batch."""

    def __init__(self):
        self.go = threading.Event()
        self.batches = []

    def batch(self, images, instructions):
        assert self.go.wait(30)
        self.batches.append(list(instructions))
        if any(text == "bad" for texts in instructions for text in texts):
            raise ConfigError("a bad instruction")
        return [list(texts) for texts in instructions]


@pytest.fixture
def predictor():
    return Predictor()


@pytest.fixture
def batcher(predictor):
    batcher = Batcher(predictor, max_queue=8, max_batch=4)
    yield batcher
    predictor.go.set()
    batcher.close()


def held(batcher, predictor):
    """Queue a request that the model works on until ``go``; later ones wait."""
    first = batcher.segment(PIXELS, ["first"])
    while batcher.waiting:
        pass
    return first


def test_waiting_requests_run_together_up_to_the_limit(batcher, predictor):
    first = held(batcher, predictor)
    later = [batcher.segment(PIXELS, [f"{n}", f"{n} again"]) for n in range(3)]
    predictor.go.set()
    assert first.result(30) == ["first"]
    assert [one.result(30) for one in later] == [[f"{n}", f"{n} again"] for n in range(3)]
    assert [len(batch) for batch in predictor.batches] == [1, 2, 1]


def test_an_error_is_that_of_one_request(batcher, predictor):
    held(batcher, predictor)
    good, bad = batcher.segment(PIXELS, ["good"]), batcher.segment(PIXELS, ["bad"])
    predictor.go.set()
    assert good.result(30) == ["good"]
    with pytest.raises(ConfigError, match="a bad instruction"):
        bad.result(30)


def test_too_many_are_refused_and_the_others_answered(batcher, predictor):
    held(batcher, predictor)
    waiting = [batcher.segment(PIXELS, [str(n)]) for n in range(8)]
    with pytest.raises(QueueFullError):
        batcher.segment(PIXELS, ["one too many"])
    with pytest.raises(QueueFullError):
        batcher.call(lambda: None)
    predictor.go.set()
    assert [one.result(30) for one in waiting] == [[str(n)] for n in range(8)]


def test_a_request_that_gave_up_is_skipped(batcher, predictor):
    held(batcher, predictor)
    gone, kept = batcher.segment(PIXELS, ["gone"]), batcher.segment(PIXELS, ["kept"])
    assert gone.cancel()
    predictor.go.set()
    assert kept.result(30) == ["kept"]
    assert ["gone"] not in [texts for batch in predictor.batches for texts in batch]


def test_calls_have_the_model_for_themselves_and_keep_the_order(batcher, predictor):
    held(batcher, predictor)
    order = []
    before = batcher.segment(PIXELS, ["before"])
    call = batcher.call(lambda: order.append(len(predictor.batches)) or "called")
    after = batcher.segment(PIXELS, ["after"])
    failing = batcher.call(lambda: 1 / 0)
    predictor.go.set()
    assert (before.result(30), call.result(30), after.result(30)) == (
        ["before"],
        "called",
        ["after"],
    )
    assert order == [2]
    with pytest.raises(ZeroDivisionError):
        failing.result(30)
