"""SIGINT and SIGTERM: the first signal finishes the current shards, the second stops at once.

Outside of ``Stop.draining`` the first signal also stops at once. Committed shards are kept.
"""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from lens_cache.errors import LensCacheError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Options that must not be repeated when a command resumes, with their number of values.
_ONCE = {"--replace": 1, "--retry-quarantined": 0}


class Interrupted(LensCacheError):
    """The work was stopped by a signal.

    Args:
        message: One line with the work that is done.
        signum: The signal.
    """

    def __init__(self, message: str, signum: signal.Signals) -> None:
        super().__init__(message)
        self.signum = signum


class Stop:
    """Whether a signal has requested a stop.

    Attributes:
        signum: The first signal; None before it.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._draining = False
        self.signum: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Whether to start no new work."""
        return self.signum is not None

    def listen(self) -> None:
        """Install the handlers, also after a library replaced them; only in the main thread."""
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                signal.signal(signum, self._on_signal)

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Inside, the first signal only sets ``requested``; the block then ends with a stop."""
        self._draining = True
        try:
            yield
        finally:
            self._draining = False
        if self.requested:
            raise KeyboardInterrupt

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.signum = signal.Signals(signum)
        if not self._draining:
            raise KeyboardInterrupt
        self._say(
            f"{self.signum.name}: finishing the current shards; press Ctrl-C or send the signal "
            "again to stop now"
        )


@contextmanager
def stop_on_signals(say: Callable[[str], None], describe: Callable[[], str]) -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into ``Interrupted``; restores the previous handlers at the end.

    Args:
        say: Shows a line to the user.
        describe: Returns the work that is done at the stop.

    Raises:
        Interrupted: If a signal stopped the block.
    """
    stop = Stop(say)
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    stop.listen()
    try:
        yield stop
    except KeyboardInterrupt:
        if stop.signum is None:
            raise
        raise Interrupted(f"stopped by {stop.signum.name}: {describe()}", stop.signum) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in before.items():
                signal.signal(signum, handler)


def resume_command(arguments: Sequence[str]) -> str:
    """Return the command line that resumes a stopped command with these arguments."""
    kept, rest = ["lens-cache"], list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name not in _ONCE:
            kept.append(word)
        elif not equals:
            del rest[: _ONCE[name]]
    return shlex.join(kept)
