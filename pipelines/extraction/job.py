"""An extraction under way, and who works it off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lens_cache.config.extract import ExtractConfig
from lens_cache.extraction.extractor import ShardReport
from lens_cache.store.layout import Group
from lens_cache.store.quarantine import Quarantine
from pipelines.extraction.ledger import Ledger, Poison
from pipelines.interrupt import Stop


@dataclass
class Summary:
    """What an extraction did.

    Attributes:
        images: Images of the plan.
        queries: Queries of the plan.
        reports: The shards extracted in this run.
        quarantined: Every quarantined image of the store, per group.
        unplanned: Files and queries that the plan itself set aside.
        set_aside: The first of them, in lines for people.
        seconds: Stage times summed over workers.
        wall: Seconds from the first task to the last commit.
    """

    images: int
    queries: int
    reports: list[ShardReport] = field(default_factory=list)
    quarantined: list[Quarantine] = field(default_factory=list)
    unplanned: int = 0
    set_aside: list[str] = field(default_factory=list)
    wall: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)


Runner = Callable[["Run", Ledger], None]


@dataclass(frozen=True)
class Run:
    """An extraction under way: what a runner needs to work off the ledger.

    Attributes:
        root: The prepared store.
        config: Its settings with absolute paths.
        groups: Groups that some shard still lacks.
        memory: Bytes that the models of one worker may take.
        on_report: Called with each committed shard.
        on_poison: Called with each image that killed its worker.
        on_progress: Called with the number of images done in shards still under way.
        message: Shows a line to the user.
        stop: Whether a signal asks to begin no further shard.
    """

    root: Path
    config: ExtractConfig
    groups: tuple[Group, ...]
    memory: int
    on_report: Callable[[ShardReport], None]
    on_poison: Callable[[Poison], None]
    on_progress: Callable[[int], None]
    message: Callable[[str], None]
    stop: Stop
