"""The exceptions of this package.

Each message is one line: the action, the expectation, the finding and the command to run. Library
code raises them; only the command line turns them into an exit code.
"""

from __future__ import annotations

import unicodedata


class LensCacheError(Exception):
    """Base class of all exceptions of this package."""


class ConfigError(LensCacheError, ValueError):
    """A configuration file, an override or an argument is invalid."""


class DatasetError(LensCacheError, ValueError):
    """A dataset cannot be read: wrong layout, unreadable annotations, or no samples."""


class ImageError(LensCacheError, ValueError):
    """One image cannot be decoded."""


class CheckpointError(LensCacheError, OSError):
    """Model weights are missing, unreadable or do not fit."""


class StoreError(LensCacheError, OSError):
    """A store is missing, incomplete or not writable."""


class StoreMismatchError(LensCacheError, ValueError):
    """A store was made with another configuration than the requested one."""


class CorruptShardError(LensCacheError, OSError):
    """Stored bytes differ from those that were committed."""


class ExtractionError(LensCacheError, RuntimeError):
    """An extraction stopped before every shard was committed."""


class TrainingError(LensCacheError, RuntimeError):
    """A training run cannot continue."""


class EvaluationError(LensCacheError, RuntimeError):
    """An evaluation stopped before every query was answered."""


class ServiceError(LensCacheError, OSError):
    """A server that was asked does not answer, or not as expected."""


def printable(text: str) -> str:
    """Return a text in which control characters, but line ends and tabs, are written as escapes.

    Names come from data; a terminal would obey the sequences in them.
    """
    return "".join(_escaped(c) if unicodedata.category(c) == "Cc" else c for c in text)


def _escaped(control: str) -> str:
    return control if control in "\n\t" else control.encode("unicode_escape").decode()


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return an exception's message on one line, without the class name, cut at ``limit``.

    An error from a PyTorch loader worker contains a stack trace; only its last line is used.
    """
    message = str(error)
    if "\nOriginal Traceback " in message:
        message = message.rstrip().rsplit("\n", 1)[-1].split(": ", 1)[-1]
    text = printable(" ".join(message.split())) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def quoted(value: object, limit: int = 120) -> str:
    """Return a value that a stranger sent as a short text in quotes, on one line, for a message."""
    text = printable(" ".join(str(value).split()))
    return f'"{text if len(text) <= limit else text[: limit - 3] + "..."}"'
