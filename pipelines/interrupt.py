"""SIGINT and SIGTERM: the first one lets the work that is under way end, the second stops at once.

Where nothing can be drained, the first one stops at once already. Whatever was committed stays.
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
# What must not be done a second time by a command that only goes on: option -> values it takes.
_ONCE = {"--replace": 1, "--retry-quarantined": 0}


class Interrupted(LensCacheError):
    """The work was stopped by a signal.

    Args:
        message: One line that says what is done.
        signum: The signal.
    """

    def __init__(self, message: str, signum: signal.Signals) -> None:
        super().__init__(message)
        self.signum = signum


class Stop:
    """Whether a signal has asked to stop.

    Attributes:
        signum: The first signal; nothing if none came.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._draining = False
        self.signum: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Whether to begin nothing new."""
        return self.signum is not None

    def listen(self) -> None:
        """Take the signals over; again after a library took them. Only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                signal.signal(signum, self._on_signal)

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Inside, the first signal only asks to stop; at the end the asking becomes a stop."""
        self._draining = True
        try:
            yield
        finally:
            self._draining = False
        if self.requested:
            raise KeyboardInterrupt

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        first, self.signum = not self.requested, self.signum or signal.Signals(signum)
        if not (first and self._draining):
            raise KeyboardInterrupt
        self._say(
            f"{self.signum.name}: no new shard is begun, those under way are being finished; "
            "once more to stop at once"
        )


@contextmanager
def stop_on_signals(say: Callable[[str], None], describe: Callable[[], str]) -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into one ``Interrupted``; the old handlers come back at the end.

    Args:
        say: Shows a line to the user.
        describe: Says what is done when the work was stopped.

    Raises:
        Interrupted: If a signal stopped what is inside.
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
    """Return the command line that goes on where one with these arguments was stopped."""
    kept, rest = ["lens-cache"], list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name in _ONCE:
            del rest[: 0 if equals else _ONCE[name]]
        else:
            kept.append(word)
    return shlex.join(kept)
