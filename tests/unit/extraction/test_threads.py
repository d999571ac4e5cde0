import os
import threading
import time
from functools import partial

import pytest

from lens_cache.extraction.threads import WriteBehind, read_ahead, reading_threads


def test_results_come_in_order_however_long_each_takes():
    def slow_first(item):
        time.sleep(0.02 if item % 3 == 0 else 0)
        return item * 10

    assert list(read_ahead(slow_first, range(20), threads=3)) == [(i, i * 10) for i in range(20)]


def test_reading_stays_a_few_items_ahead():
    taken = []

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    stream = read_ahead(lambda item: item, items(), threads=2)
    next(stream)
    assert len(taken) < 10
    stream.close()


def test_an_error_of_a_reader_reaches_the_consumer():
    def fail(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        list(read_ahead(fail, range(3), threads=2))


def test_writes_happen_in_order_in_one_thread_and_encoding_in_others():
    done, writers, encoders = [], set(), set()
    together = threading.Barrier(2)  # two values are encoded at the same time

    def encode(item):
        encoders.add(threading.current_thread().name)
        together.wait(timeout=60)
        return 10 * item

    def write(value):
        writers.add(threading.current_thread().name)
        done.append(value)

    with WriteBehind() as behind:
        for item in range(50):
            behind.submit(partial(encode, item), write)
        behind.wait()
    assert done == list(range(0, 500, 10))
    assert len(writers) == 1
    assert len(encoders) == 2
    assert not writers & encoders


@pytest.mark.parametrize("stage", ["encode", "write"])
def test_an_error_behind_reaches_the_producer(stage):
    def fail(*_):
        raise OSError("disk full")

    def work(*_):
        pass

    def produce():
        with WriteBehind() as behind:
            for _ in range(100):
                behind.submit(*(fail if name == stage else work for name in ("encode", "write")))

    with pytest.raises(OSError, match="disk full"):
        produce()


@pytest.mark.parametrize(
    ("cores", "workers", "limit", "threads"),
    [
        (1, 1, None, 1),
        (4, 1, None, 4),
        (16, 2, None, 8),
        (64, 1, None, 8),
        (64, 12, None, 5),
        (2, 8, None, 1),
        (64, 2, 6, 3),
        (4, 2, 64, 2),
    ],
)
def test_a_worker_reads_with_its_share_of_the_cores(monkeypatch, cores, workers, limit, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: 999)  # cores that this process may not use
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert reading_threads(workers, limit) == threads
