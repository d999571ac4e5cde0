"""SIGINT and SIGTERM: the first one finishes the work in progress, the second one stops at once.

Key decisions:

* Inside ``Stop.draining`` the first signal is only recorded; the caller finishes its shards and
  starts no new one. At the end of the block the recorded signal becomes a ``KeyboardInterrupt``.
* Outside of it there is nothing to finish: the first signal raises ``KeyboardInterrupt`` at once.
* A further signal always raises. Commit records are written last, so what is committed stays valid.
* Callers see one exception, ``Interrupted``; its message says how to resume.
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
# Options that a resumed command must not repeat: option -> number of values it takes.
_ONCE = {"--replace": 1, "--retry-quarantined": 0}
# Commands that resume with an option of their own.
_RESUMED_BY = {"train": "--resume"}


class Interrupted(LensCacheError):
    """The work was stopped by a signal.

    Args:
        message: One line: what is committed, and how to resume.
        signum: The signal.
    """

    def __init__(self, message: str, signum: signal.Signals) -> None:
        super().__init__(message)
        self.signum = signum


class Stop:
    """The state of a stop requested by a signal.

    Args:
        show: Shows a line to the user.
        work: The work in progress, which is finished after a signal.

    Attributes:
        signum: The first signal, or None.
    """

    def __init__(self, show: Callable[[str], None], work: str = "the current shards") -> None:
        self._show = show
        self._work = work
        self._draining = False
        self.signum: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Whether a signal was received, so that nothing new may be started."""
        return self.signum is not None

    def listen(self) -> None:
        """Install the handlers; call it again after a library has replaced them.

        Does nothing outside of the main thread, where Python installs no handlers.
        """
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                signal.signal(signum, self._on_signal)

    @contextmanager
    def draining(self) -> Iterator[None]:
        """Inside the block the first signal is only recorded; the end of the block raises it."""
        self._draining = True
        try:
            yield
        finally:
            self._draining = False
        if self.requested:
            raise KeyboardInterrupt

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        if self.requested:  # a second signal: stop at once
            raise KeyboardInterrupt
        self.signum = signal.Signals(signum)
        if not self._draining:
            raise KeyboardInterrupt
        self._show(
            f"{self.signum.name}: finishing {self._work}; press Ctrl-C or send the signal "
            "again to stop now"
        )


@contextmanager
def stop_on_signals(
    show: Callable[[str], None], describe: Callable[[], str], work: str = "the current shards"
) -> Iterator[Stop]:
    """Turn SIGINT and SIGTERM into ``Interrupted``; restore the old handlers at the end.

    Args:
        show: Shows a line to the user.
        describe: Returns what is saved, for the message.
        work: The work in progress, which is finished after a signal.

    Raises:
        Interrupted: If a signal stopped the block.
    """
    stop = Stop(show, work)
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
    """Return the command line that resumes a command with these arguments."""
    kept = ["lens-cache"]
    words = iter(arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        if name not in _ONCE:
            kept.append(word)
        elif not equals:  # the values are the next words
            for _ in range(_ONCE[name]):
                next(words, None)
    option = _RESUMED_BY.get(kept[1]) if len(kept) > 1 else None
    if option is not None and option not in kept:
        kept.append(option)
    return shlex.join(kept)
