from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lens_cache.errors import ExtractionError
from pipelines.extraction.ledger import Ledger, Task

GROUPS = ("hidden_states", "image_embeddings")


def ledger(num_images, shard_size, max_deaths=20, done=()):
    shards = [
        range(start, min(start + shard_size, num_images))
        for start in range(0, num_images, shard_size)
    ]
    todo = {shard: GROUPS for shard in range(len(shards)) if shard not in done}
    return Ledger(todo, shards, max_deaths), shards


class World:
    """Workers that die of poison, and now and then of nothing."""

    def __init__(self, shards, poison, flaky=()):
        self.shards, self.poison, self.flaky = shards, set(poison), set(flaky)
        self.quarantined = set()
        self.finished = Counter()
        self.deaths = self.tasks = 0
        self.last = None
        self.unlucky = set()

    def survives(self, task):
        """An image in quarantine is not touched; the same task does not die twice of nothing.

        A shard may, but not in a row. Two such deaths over one image alone, however far apart, are
        what the ledger calls poison.
        """
        self.tasks += 1
        seen = set(task.probe or self.shards[task.shard]) - self.quarantined
        again = task in self.unlucky if len(task.probe) == 1 else task == self.last
        by_itself = self.tasks in self.flaky and not again
        self.last = task if by_itself else None
        if by_itself:
            self.unlucky.add(task)
        return not (seen & self.poison) and not by_itself

    def end(self, book, task):
        if self.survives(task):
            book.done(task)
            if not task.probe:
                self.finished[task.shard] += 1
            return
        self.deaths += 1
        found = book.died(task)
        if found is not None:
            assert found.groups == task.groups
            assert found.image not in self.quarantined
            self.quarantined.add(found.image)


def work_off(book, world, workers=1, order=None):
    """Run tasks with several workers; ``order`` decides which of them ends next."""
    running = []
    for _ in range(10_000):
        if book.finished:
            return
        while len(running) < workers and (task := book.next()) is not None:
            running.append(task)
        assert running, "nothing runs, yet the ledger is not finished"
        index = order.draw(st.integers(0, len(running) - 1)) if order else 0
        world.end(book, running.pop(index))
    raise AssertionError("it does not end")


@settings(deadline=None, max_examples=200)
@given(
    data=st.data(),
    num_images=st.integers(1, 40),
    shard_size=st.integers(1, 16),
    workers=st.integers(1, 4),
)
def test_every_shard_ends_done_and_exactly_the_poison_is_found(
    data, num_images, shard_size, workers
):
    poison = data.draw(st.sets(st.integers(0, num_images - 1), max_size=5))
    flaky = data.draw(st.sets(st.integers(1, 30), max_size=2))
    book, shards = ledger(num_images, shard_size, max_deaths=1000)
    world = World(shards, poison, flaky)
    work_off(book, world, workers, data)
    assert world.finished == Counter(range(len(shards)))
    assert world.quarantined == poison
    # Per poison: twice as a shard, once per halving, once more alone; and once more for a round.
    depth = max(1, (min(shard_size, num_images) - 1).bit_length() + 1)
    assert world.deaths <= len(poison) * (depth + 4) + 3 * len(flaky)
    assert book.next() is None


def test_without_deaths_every_shard_is_dealt_once_in_order():
    book, shards = ledger(10, 3)
    assert book.waiting == len(shards) == 4
    dealt = []
    while (task := book.next()) is not None:
        dealt.append(task)
    assert dealt == [Task(shard, GROUPS) for shard in range(4)]
    assert not book.finished
    for task in dealt:
        book.done(task)
    assert book.finished


def test_committed_shards_are_not_dealt():
    book, _ = ledger(10, 3, done={0, 2})
    assert [book.next().shard, book.next().shard, book.next()] == [1, 3, None]


def test_a_shard_killed_once_is_tried_again_and_nothing_is_blamed():
    book, _ = ledger(4, 4)
    first = book.next()
    assert book.died(first) is None
    assert book.next() == first
    book.done(first)
    assert book.finished


def test_a_probe_of_one_image_killed_from_outside_blames_nothing():
    book, _ = ledger(2, 1, done={1})
    task = book.next()
    book.died(task)
    book.died(book.next())
    probe = book.next()
    assert probe.probe == (0,)
    assert book.died(probe) is None
    again = book.next()
    assert again == probe
    book.done(again)
    book.done(book.next())
    assert book.finished


def test_deaths_that_do_not_stop_end_the_run():
    book, _ = ledger(100, 10, max_deaths=7)
    with pytest.raises(ExtractionError, match="stopped after 7 worker processes died in a row"):  # noqa: PT012
        for _ in range(8):
            book.died(book.next())


def test_a_shard_that_only_dies_whole_ends_the_run():
    """Memory runs out on the shard, never on one image."""
    book, _ = ledger(4, 4)
    with pytest.raises(ExtractionError, match=r"survive each of its images alone; .*workers.count"):  # noqa: PT012
        for _ in range(100):
            task = book.next()
            if task.probe:
                book.done(task)
            else:
                book.died(task)


def test_lost_nodes_blame_nothing_however_many_workers_they_held():
    book, _ = ledger(100, 10, max_deaths=3)
    held = [book.next() for _ in range(8)]
    for task in held:
        assert book.died(task, node_lost=True) is None
    assert {book.next() for _ in range(8)} == set(held)


def test_a_shard_that_brings_node_after_node_down_is_suspected():
    """An image that makes the whole machine fall is found out like any other poison."""
    book, shards = ledger(4, 4)
    world, poison = World(shards, {2}), None
    for _ in range(100):
        task = book.next()
        if world.survives(task):
            book.done(task)
        else:
            poison = book.died(task, node_lost=True)
        if poison is not None:
            break
    assert poison.image == 2


def test_a_disk_that_failed_once_is_tried_once_more():
    book, _ = ledger(2, 1)
    first, second = book.next(), book.next()
    assert book.failed(first)
    book.done(second)
    assert book.next() == first
    assert not book.failed(first)
