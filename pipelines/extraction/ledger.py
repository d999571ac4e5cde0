"""Which shard is extracted next, and how a shard that kills its worker is handled.

A shard whose worker died is tried again; when it dies twice, its images are probed in halves until
the one that kills is alone. If it kills again, it is quarantined and the shard continues without
it: a process that died for another reason must not cost a good image. If a node is lost or a disk
fails once, no image is blamed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lens_cache.errors import ExtractionError
from lens_cache.store.layout import Group

_DEATHS_BEFORE_PROBE = 2
_ROUNDS = 3
# A shard may lose its node this often before the shard itself is suspected.
_LOSSES_FORGIVEN = 3


@dataclass(frozen=True)
class Task:
    """One call of a worker: extract a shard, or only probe some of its images."""

    shard: int
    groups: tuple[Group, ...]
    probe: tuple[int, ...] = ()


@dataclass(frozen=True)
class Poison:
    """An image that kills every worker that touches it."""

    image: int
    groups: tuple[Group, ...]


class Ledger:
    """Hands out tasks and records how they end.

    Args:
        todo: Per shard the groups that have no commit.
        shards: Per shard its images.
        max_deaths: Stop after this many worker deaths without a finished task or a found image.
    """

    def __init__(
        self,
        todo: Mapping[int, tuple[Group, ...]],
        shards: Sequence[Sequence[int]],
        max_deaths: int,
    ) -> None:
        self._queue = deque(Task(shard, groups) for shard, groups in sorted(todo.items()))
        self._shards = shards
        self._open = len(self._queue)
        self._max_deaths = max_deaths
        self._deaths_in_a_row = 0
        self._deaths: dict[int, int] = {}
        self._rounds: dict[int, int] = {}
        self._probes: dict[int, int] = {}
        self._suspects: set[int] = set()
        self._losses: dict[int, int] = {}
        self._failed: set[Task] = set()

    @property
    def finished(self) -> bool:
        """Whether every shard is done."""
        return self._open == 0

    @property
    def waiting(self) -> int:
        """Number of tasks that can be handed out now."""
        return len(self._queue)

    def next(self) -> Task | None:
        """Return the next task, or None if none is waiting."""
        return self._queue.popleft() if self._queue else None

    def done(self, task: Task) -> None:
        """Record that a task succeeded."""
        self._deaths_in_a_row = 0
        if task.probe:
            self._suspects.difference_update(task.probe)
            self._end_probe(task)
        else:
            self._open -= 1

    def failed(self, task: Task) -> bool:
        """Record an error that may be one machine's; returns whether the task is tried again."""
        if task in self._failed:
            return False
        self._failed.add(task)
        self._queue.append(task)
        return True

    def again(self, task: Task) -> None:
        """Queue a task again whose device failed: neither its shard nor its images are to blame."""
        self._queue.appendleft(task)

    def died(self, task: Task, *, node_lost: bool = False) -> Poison | None:
        """Record that a worker died during a task; returns the image that killed it, once known.

        Args:
            task: The task.
            node_lost: Whether its whole node is gone: then the task is queued again.

        Raises:
            ExtractionError: If workers keep dying and no image is the cause.
        """
        if node_lost and self._losses.get(task.shard, 0) < _LOSSES_FORGIVEN:
            self._losses[task.shard] = self._losses.get(task.shard, 0) + 1
            self._queue.appendleft(task)
            return None
        self._deaths_in_a_row += 1
        if self._deaths_in_a_row >= self._max_deaths:
            raise ExtractionError(
                f"stopped after {self._deaths_in_a_row} worker processes died in a row, the last "
                f"at shard {task.shard}; look for memory running out (fewer workers.count), then "
                "run the same command again"
            )
        if not task.probe:
            self._retry(task)
            return None
        if len(task.probe) == 1:
            if task.probe[0] not in self._suspects:
                self._suspects.add(task.probe[0])
                self._queue.appendleft(task)
                return None
            self._deaths_in_a_row = 0
            self._deaths[task.shard] = self._rounds[task.shard] = 0
            self._end_probe(task)
            return Poison(task.probe[0], task.groups)
        self._split(task, task.probe)
        self._end_probe(task)
        return None

    def _retry(self, task: Task) -> None:
        deaths = self._deaths[task.shard] = self._deaths.get(task.shard, 0) + 1
        if deaths < _DEATHS_BEFORE_PROBE:
            self._queue.append(task)
            return
        rounds = self._rounds[task.shard] = self._rounds.get(task.shard, 0) + 1
        if rounds > _ROUNDS:
            raise ExtractionError(
                f"stopped at shard {task.shard}: workers die on it, yet survive each of its images "
                "alone; look for memory running out (fewer workers.count), then run the same "
                "command again"
            )
        self._split(task, tuple(self._shards[task.shard]))

    def _split(self, task: Task, images: tuple[int, ...]) -> None:
        """Queue probes of both halves of some images, in front."""
        middle = (len(images) + 1) // 2
        halves = [half for half in (images[:middle], images[middle:]) if half]
        self._probes[task.shard] = self._probes.get(task.shard, 0) + len(halves)
        self._queue.extendleft(Task(task.shard, task.groups, half) for half in halves)

    def _end_probe(self, task: Task) -> None:
        """When the last probe of a shard has ended, the shard is queued again."""
        self._probes[task.shard] -= 1
        if self._probes[task.shard] == 0:
            self._queue.append(Task(task.shard, task.groups))
