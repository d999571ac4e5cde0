"""Progress bars with rates, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lens_cache.errors import printable


class Reporter(Protocol):
    """Receives the progress and the messages of a step."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Show the progress of a step."""

    def message(self, text: str) -> None:
        """Show one line."""


class Silent:
    """Shows nothing."""

    def progress(self, what: str, done: int, total: int) -> None:
        """See ``Reporter``."""

    def message(self, text: str) -> None:
        """See ``Reporter``."""


class _Rate(ProgressColumn):
    """Steps per second, or per hour if there are fewer than one in ten seconds."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(_rate(speed) if speed else "-/s", style="progress.data.speed")


def _rate(speed: float) -> str:
    return f"{speed:.1f}/s" if speed >= 0.1 else f"{3600 * speed:.1f}/h"


class Bars:
    """Progress bars by name; use it in a ``with`` block.

    Args:
        window: Seconds over which rates are measured; must be longer than a step.
    """

    def __init__(self, window: float = 30.0) -> None:
        self._console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self._console,
            speed_estimate_period=window,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        """Show the progress of a step; the first call adds its bar."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[what], completed=done, total=total)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside the block another progress bar may use the terminal."""
        self._progress.stop()
        for task in self._tasks.values():
            self._progress.remove_task(task)
        self._tasks.clear()
        try:
            yield
        finally:
            self._progress.start()

    def message(self, text: str) -> None:
        """Show one line above the bars."""
        self._console.print(printable(text), markup=False, highlight=False, soft_wrap=True)
