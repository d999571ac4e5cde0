"""The exceptions a user can meet.

Each message is one line that says what was being done, what was expected, what was found and what
to run. Library code raises them; only the command line turns them into an exit code.
"""

from __future__ import annotations


class LensCacheError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigError(LensCacheError, ValueError):
    """A configuration file, an override or an argument is wrong."""


class DatasetError(LensCacheError, ValueError):
    """A dataset as a whole cannot be read: wrong layout, unreadable annotations, nothing in it."""


class ImageError(LensCacheError, ValueError):
    """One image cannot be decoded."""


class CheckpointError(LensCacheError, OSError):
    """Model weights are missing or do not fully load."""


class StoreError(LensCacheError, OSError):
    """A store is missing, incomplete or not writable."""


class StoreMismatchError(LensCacheError, ValueError):
    """A store was made with another configuration than the one asked for."""


class CorruptShardError(LensCacheError, OSError):
    """Stored bytes differ from what was committed."""


class ExtractionError(LensCacheError, RuntimeError):
    """An extraction stopped before every shard was committed."""


class TrainingError(LensCacheError, RuntimeError):
    """A training cannot go on."""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception's message on one line, without the class name, cut at ``limit``.

    PyTorch hands an error of a loader worker on with its whole stack trace; its last line counts.
    """
    message = str(error)
    if "\nOriginal Traceback " in message:
        message = message.rstrip().rsplit("\n", 1)[-1].split(": ", 1)[-1]
    text = " ".join(message.split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
