import threading
import time

import pytest

from lens_cache.extraction.threads import WriteBehind, read_ahead


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


def test_writes_happen_in_order_in_one_thread():
    done, threads = [], set()

    def write(item):
        threads.add(threading.current_thread().name)
        done.append(item)

    with WriteBehind() as behind:
        for item in range(50):
            behind.submit(write, item)
        behind.wait()
    assert done == list(range(50))
    assert len(threads) == 1


def test_an_error_of_a_write_reaches_the_producer():
    def fail():
        raise OSError("disk full")

    def produce():
        with WriteBehind() as behind:
            for _ in range(100):
                behind.submit(fail)

    with pytest.raises(OSError, match="disk full"):
        produce()
